"""Shared prefixes of prompts."""

from trl_weaks.inference.shared_prefix import SHORTEST, common_length, longest_match, shared_prefixes

HEAD = tuple(range(100, 140))


def test_one_instruction_in_front_of_everything():
    prompts = [[*HEAD, i, i + 1] for i in range(50)]
    assert shared_prefixes(prompts) == [HEAD]


def test_a_last_token_is_always_left():
    assert shared_prefixes([list(HEAD)] * 5) == [HEAD[:-1]]
    assert longest_match(HEAD, [HEAD]) == ()
    assert longest_match([*HEAD, 1], [HEAD]) == HEAD


def test_groups_have_their_own():
    one, two = (*HEAD, *range(200, 230)), (*HEAD, *range(300, 330))
    prompts = [[*(one if i % 2 else two), i] for i in range(60)] + [[*HEAD, 7, i] for i in range(60)]
    prefixes = shared_prefixes(prompts)
    assert set(prefixes) == {one, two, (*HEAD, 7)} - {(*HEAD, 7)} | {HEAD}
    assert longest_match(prompts[0], prefixes) == two and longest_match(prompts[-1], prefixes) == HEAD
    assert longest_match([1, 2, 3], prefixes) == ()


def test_short_or_rare_beginnings_are_not_worth_it():
    assert shared_prefixes([[*HEAD[: SHORTEST - 1], i] for i in range(20)]) == []
    assert shared_prefixes([[i] * 50 for i in range(100)]) == []
    assert shared_prefixes([[*HEAD, 1], *([i] * 50 for i in range(100))]) == []


def test_nested_prompts_do_not_recurse_too_deep():
    assert shared_prefixes([[1] * n for n in range(1, 2000)])  # each is the beginning of the next


def test_common_length():
    assert (common_length([1, 2, 3], [1, 2, 4]), common_length([1], [1, 2]), common_length([], [1])) == (2, 1, 0)
