"""Methods of the field beside the paper's: for `--methods field` every registered aggregator and loss has a row, for
`--methods annotators` simulated annotators take the supervisors' place."""

from importlib.util import find_spec

from trl_weaks.aggregation import AGGREGATORS, COMPLETION_AGGREGATORS
from trl_weaks.aggregation.instance_accuracy import MIN_VOTERS
from trl_weaks.aggregation.transforms import KeepBest
from trl_weaks.labelling.with_student.co_supervised import CoSupervised
from trl_weaks.labelling.with_student.instance_votes import PooledByInstance
from trl_weaks.labelling.with_student.selective import Selective
from trl_weaks.labelling.with_student.two_stage import TwoStage
from trl_weaks.losses import LOSSES
from trl_weaks.study.annotators import ANNOTATORS
from trl_weaks.study.methods import ON_GOLD_OF_A, Method
from trl_weaks.study.preference_methods import preference_field

REFERENCE = "naive"  # what the rows are compared with
BY_MEAN, BY_DAWID_SKENE = "annotators_mean", "annotators_dawid_skene"
OF_THE_PAPER = ("naive", "bayesian", "evidential", "dirichlet_votes")  # losses whose rows are those of the paper
SAME_ALONE = ("log_linear",)  # of one supervisor it is the naive row
SAME_AS_NAIVE = ("mean",)  # the naive loss is linear in its target: the mean vote is what it sees
LABELS = {
    "dawid_skene": "Student on Dawid and Skene's labels",
    "log_linear": "Student on the log-linear mean of the votes",
    "majority": "Student on the pooled majority vote",
    "glad": "Student on GLAD's labels",
    "mace": "Student on MACE's labels",
    "wawa": "Student on Wawa's labels",
    "agreement": "Student on the mean weighted by agreement (RAVEN's static control)",
    "raven": "RAVEN, weights learned with the student",
    "student_dawid_skene": "Dawid and Skene with the student in the loop",
    "mbr": "Student on minimum Bayes risk answers",
    "rover": "Student on the answers nearest to ROVER's consensus",
    "joint": "Student on joint decoding",
    "reverse_kl": "Reverse KL to the labels",
    "product": "OpenAI's product loss",
    "adaptive_confidence": "Adaptive confidence (AdaptConf)",
    "confidence_window": "Only where the student is unsure (EleutherAI's window)",
    "entropy": "Cross-entropy and the student's own entropy",
    "realm": "REALM, one given expertise",
    "realm_learned": "REALM, expertise learned with the student",
}


def class_field() -> dict[str, Method]:
    """Rows of a classification task, by name; those of crowd-kit where it is installed."""
    found = [Method(REFERENCE, "Naive multi-weak", loss="naive", settings={"gamma_max": 0.0})]
    for name in AGGREGATORS:
        needs_crowd = AGGREGATORS[name].__module__.endswith(".crowd")
        if name not in SAME_AS_NAIVE and (not needs_crowd or find_spec("crowdkit") is not None):
            label = LABELS.get(name, f"Student on the labels of {name}")
            row = {"loss": "naive", "aggregator": name, "settings": {"gamma_max": 0.0}}
            least = 2 if name in SAME_ALONE else getattr(AGGREGATORS[name], "min_supervisors", 1)
            found.append(Method(f"on_{name}", label, min_supervisors=least, **row))
    plain = {"loss": "naive", "settings": {"gamma_max": 0.0}}
    found += [
        Method("trusted", "Votes weighted by trust heads", labels="trusted", **plain),
        Method("boosted", "Supervisors weighted by boosting (EnsemW2S)", labels="boosted", min_supervisors=2, **plain),
    ]
    found += [_surer_half({}), *_with_student({})]
    return {method.name: method for method in [*found, *_losses({})]}


def annotated() -> dict[str, Method]:
    """Rows of a classification task whose votes are those of simulated annotators, for `--methods annotators`."""
    shared = {"labels": ANNOTATORS, "loss": "naive", "settings": {"gamma_max": 0.0}}
    return {
        name: Method(name, f"Student on simulated annotators, {label}", aggregator=aggregator, **shared)
        for name, label, aggregator in (
            (BY_MEAN, "mean of the votes", "mean"),
            (BY_DAWID_SKENE, "Dawid-Skene", "dawid_skene"),
        )
    }


def completion_field() -> dict[str, Method]:
    """Rows of a completion task, by name."""
    plain = {"soft_labels": True, "gamma_max": 0.0}
    found = [Method(REFERENCE, "Naive multi-weak + confidence", loss="naive", settings=plain)]
    for name in COMPLETION_AGGREGATORS:
        if name != "independent":
            found.append(
                Method(
                    f"on_{name}",
                    LABELS.get(name, f"Student on the answers of {name}"),
                    labels=name,
                    loss="naive",
                    settings=plain,
                )
            )
    soft = {"soft_labels": True}
    found += [_surer_half(soft), _two_stage(soft), _refined(plain), *preference_field(REFERENCE)]
    return {method.name: method for method in [*found, *_losses(soft, votes=False)]}


def _refined(settings: dict) -> Method:
    """Iterative label refinement, one round (after 2501.07886): three trainings, and answers scored."""
    return Method("ilr", "Labels refined by cross-labelling (ILR)", labels="refined", loss="naive", settings=settings)


def _surer_half(settings: dict) -> Method:
    """Filtering by confidence, the first stage of two-stage recipes (2503.04249); the share is ours."""
    return Method(
        "surer_half",
        "Naive, on the surer half of the labels",
        transform=KeepBest(0.5),
        loss="naive",
        settings=settings | {"gamma_max": 0.0},
    )


def _two_stage(settings: dict) -> Method:
    return Method(
        "two_stage",
        "Filtered, and relabelled by the first stage's student",
        transform=TwoStage(0.5),
        loss="naive",
        settings=settings | {"gamma_max": 0.0},
        after="surer_half",
    )


def _with_student(settings: dict) -> list[Method]:
    """Labels of classes that a trained student helps to make."""
    rows = [
        ("selective", "Own label where the student knows", Selective(), ON_GOLD_OF_A),
        ("co_supervised", "The specialist's label for each text", CoSupervised(), REFERENCE),
        ("instance_accuracy", "Votes weighed by accuracy on each text", PooledByInstance(), ON_GOLD_OF_A),
    ]
    plain = {"loss": "naive", "settings": settings | {"gamma_max": 0.0}}
    needs = {"instance_accuracy": {"min_supervisors": MIN_VOTERS}}
    found = [
        Method(name, label, transform=made, after=after, **plain, **needs.get(name, {}))
        for name, label, made, after in rows
    ]
    return [_two_stage(settings), *found]


def _losses(settings: dict, votes: bool = True) -> list[Method]:
    """A row for every registered loss that the paper has not; without the auxiliary loss."""
    return [
        Method(
            f"loss_{name}",
            LABELS.get(name, f"Loss: {name}"),
            loss=name,
            settings=settings | {"gamma_max": 0.0},
            min_supervisors=getattr(loss, "min_supervisors", 1),
        )
        for name, loss in LOSSES.items()
        if name not in OF_THE_PAPER and (votes or not loss.needs_votes)
    ]


def field_comparisons(methods: list[Method]) -> list[str]:
    """Every row of the field against the naive one, as `compare` takes them."""
    field = {**class_field(), **completion_field()}
    names = [method.name for method in methods if method.name in field and method.name != REFERENCE]
    return [name for first in names for name in (first, REFERENCE)]
