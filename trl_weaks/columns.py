"""The dataset contract: every column that travels between labelling and training, named once.

Letters used in every docstring: B rows, L padded length, T supervised tokens, V vocabulary, K classes, N supervisors,
n supervisors that share one row.

Generation. One row per *distinct* completion of a prompt; a stock `SFTTrainer` can train on it and ignores the rest.

| column             | type                | meaning                                                                  |
|--------------------|---------------------|--------------------------------------------------------------------------|
| `example_id`       | str                 | id of the prompt; rows are joined on ids, never on positions             |
| `prompt`           | str or messages     | TRL's own                                                                |
| `completion`       | str or messages     | TRL's own                                                                |
| `weak_supervisors` | list[str], n        | the supervisors that gave this completion                                |
| `weak_weights`     | list[float], n      | their weights; over all rows of one example they sum to 1                |
| `weak_offsets`     | list[n][tokens][2]  | each supervisor's tokens as [start, end) characters of the completion;   |
|                    |                     | the end-of-sequence token is the empty span at the end                   |
| `weak_logps`       | list[n][tokens]     | log-probability of those tokens under that supervisor, nats, <= 0        |
| `weak_score`       | float               | the ensemble's score of the completion, nats per token (joint decoding)  |
| `weak_finished`    | bool, may be absent | whether the completion ends here; where not, no end is taught            |
| `confidence_source`| list[str], n, may   | where each log-probability comes from: stated, logprobs, samples,        |
|                    | be absent           | rescored, or nowhere (None: a hard label)                                |
| `weak_top_logps`   | list[n][tokens][k], | what else a server would have said in each token's place: `token` (its   |
|                    | may be absent       | text) and `logp`; None for a supervisor that gave no alternatives        |
"""

EXAMPLE_ID = "example_id"
PROMPT = "prompt"
COMPLETION = "completion"
SUPERVISORS = "weak_supervisors"
WEIGHTS = "weak_weights"
OFFSETS = "weak_offsets"
LOGPS = "weak_logps"
SCORE = "weak_score"
FINISHED = "weak_finished"
CONFIDENCE_SOURCE = "confidence_source"
TOP_LOGPS = "weak_top_logps"

GENERATION = (EXAMPLE_ID, PROMPT, COMPLETION, SUPERVISORS, WEIGHTS, OFFSETS, LOGPS)

TEXT = "text"
LABEL = "label"
WEAK_PROBS = "weak_probs"  # list[N][K], rows sum to 1
VOTERS = "vote_supervisors"  # list[n] of str: who voted, where the votes of a row were aggregated; may be absent
VOTES = "vote_probs"  # list[n][K]: their votes, in the order of `vote_supervisors`; may be absent
TRUST = "weak_trust"  # list[N]: probability that each vote is right, by its supervisor's trust head; may be absent
CLASSES = "weak_classes"  # list[K] of str, the same in every row: what the classes are called; may be absent

TRAIN_WEIGHT = "triage_weight"  # float: how much the row teaches beside the others, as `triage` says; may be absent

# What labelling says of a row, and who said it. Labels that are made anew leave nothing of older ones beside them,
# which would speak of other supervisors.
WEAK = (
    *(SUPERVISORS, WEIGHTS, OFFSETS, LOGPS, SCORE, FINISHED, CONFIDENCE_SOURCE, TOP_LOGPS),
    *(WEAK_PROBS, VOTERS, VOTES, TRUST, CLASSES),
)

CHOSEN = "chosen"
REJECTED = "rejected"
CHOSEN_SCORE = "chosen_score"
REJECTED_SCORE = "rejected_score"
MARGIN = "margin"  # chosen_score - rejected_score, nats per token
PAIR_WEIGHT = "pair_weight"
PAIR_EPSILON = "pair_epsilon"

PAIRS = (CHOSEN, REJECTED, CHOSEN_SCORE, REJECTED_SCORE, MARGIN, PAIR_WEIGHT, PAIR_EPSILON)
