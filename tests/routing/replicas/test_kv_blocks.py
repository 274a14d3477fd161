"""kv_blocks: keys tell prefixes and tenants apart. The index says what replicas hold, and no more."""

import random
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.replicas.kv_blocks import MAX_REPLICAS, BlockIndex, ExactBlocks, MirrorBlocks, block_keys, root_key

ROOT = root_key("salt")
TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=60)


# --- keys


@given(TOKENS, st.integers(1, 9))
def test_only_full_blocks_have_keys(tokens: list[int], size: int) -> None:
    assert len(block_keys(tokens, size, ROOT)) == len(tokens) // size


@given(TOKENS, TOKENS, st.integers(1, 4))
def test_keys_agree_exactly_on_the_common_blocks(left: list[int], right: list[int], size: int) -> None:
    common = 0
    while left[common * size : (common + 1) * size] == right[common * size : (common + 1) * size]:
        if (common + 1) * size > min(len(left), len(right)):
            break
        common += 1
    pairs = zip(block_keys(left, size, ROOT), block_keys(right, size, ROOT), strict=False)
    agree = [a == b for a, b in pairs]
    assert agree == [True] * common + [False] * (len(agree) - common)


@given(TOKENS, st.integers(1, 4), st.integers(0, 15))
def test_a_chain_may_be_continued_from_any_block(tokens: list[int], size: int, at: int) -> None:
    keys = block_keys(tokens, size, ROOT)
    cut = min(at, len(keys))
    parent = keys[cut - 1] if cut else ROOT
    assert keys == keys[:cut] + block_keys(tokens[cut * size :], size, parent)


@given(st.text(max_size=8), st.text(max_size=8), st.none() | st.text(max_size=8), st.none() | st.text(max_size=8))
def test_tenants_and_adapters_never_share_a_key(
    salt: str, other: str, lora: str | None, other_lora: str | None
) -> None:
    """The same prompt of another tenant is another prefix."""
    tokens = list(range(64))
    mine, theirs = block_keys(tokens, 4, root_key(salt, lora)), block_keys(tokens, 4, root_key(other, other_lora))
    if (salt, lora) == (other, other_lora):
        assert mine == theirs
    else:
        assert not set(mine) & set(theirs)


def test_a_salt_cannot_be_spelled_into_another_tenants_adapter() -> None:
    """Salt and LoRA name are separate even when their texts run together."""
    roots = {root_key("ab", "c"), root_key("a", "bc"), root_key("abc"), root_key("abc", ""), root_key("ab\x01c")}
    assert len(roots) == 5


# --- index


class NaiveIndex:
    """The same promise, spelled out with sets."""

    def __init__(self) -> None:
        self.held: dict[str, set[int]] = {}

    def match(self, keys: list[int]) -> dict[str, int]:
        return {
            replica: next((depth for depth, key in enumerate(keys) if key not in held), len(keys))
            for replica, held in self.held.items()
        }


CHAINS = [block_keys([chain, *range(11)], 1, ROOT) for chain in range(4)]
REPLICAS = ["a", "b", "c"]
INDEX_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "discard", "clear", "remove"]),
        st.sampled_from(REPLICAS),
        st.sampled_from(CHAINS),
        st.integers(0, 12),
        st.integers(0, 12),
    ),
    max_size=60,
)


@given(INDEX_STEPS)
def test_index_equals_the_naive_model_under_random_events(steps: list[tuple[str, str, list[int], int, int]]) -> None:
    index, model = BlockIndex(), NaiveIndex()
    for name, replica, chain, start, stop in steps:
        keys = chain[start:stop]
        index.add_replica(replica)
        model.held.setdefault(replica, set())
        if name == "store":
            index.store(replica, keys)
            model.held[replica].update(keys)
        elif name == "discard":
            index.discard(replica, keys)
            model.held[replica].difference_update(keys)
        elif name == "clear":
            index.clear(replica)
            model.held[replica].clear()
        else:
            index.remove_replica(replica)
            del model.held[replica]
        assert all(index.match(chain) == model.match(chain) for chain in CHAINS)
        assert len(index) == len(set().union(*model.held.values()))


def test_a_gap_ends_the_prefix_whatever_comes_after_it() -> None:
    index = BlockIndex()
    index.add_replica("a")
    index.store("a", CHAINS[0][:3] + CHAINS[0][4:])
    assert index.match(CHAINS[0]) == {"a": 3}


@pytest.mark.parametrize(("leaves", "stays"), [("a", "b"), ("b", "a")])
def test_a_block_that_leaves_one_replica_stays_on_the_others(leaves: str, stays: str) -> None:
    index = BlockIndex()
    for replica in ("a", "b"):
        index.add_replica(replica)
        index.store(replica, CHAINS[0])
    index.discard(leaves, CHAINS[0])
    assert index.match(CHAINS[0]) == {leaves: 0, stays: 12}


def test_a_removed_replica_makes_room_for_another() -> None:
    index = BlockIndex()
    for n in range(MAX_REPLICAS):
        index.add_replica(f"r{n}")
    index.store("r5", CHAINS[0])
    with pytest.raises(ValueError, match="one more"):
        index.add_replica("late")
    index.remove_replica("r5")
    index.add_replica("late")
    assert index.match(CHAINS[0])["late"] == 0
    assert "r5" not in index.match(CHAINS[0])


# --- exact


def hashes(chain: int, count: int = 12) -> list[bytes]:
    return [random.Random(f"{chain}-{n}").randbytes(32) for n in range(count)]


def tokens(chain: int) -> list[int]:
    return [chain, *range(11)]


def exact(capacity: int = 100) -> tuple[BlockIndex, ExactBlocks]:
    index = BlockIndex()
    return index, ExactBlocks(index, "a", capacity)


def test_stored_blocks_match_the_keys_of_the_same_prompt() -> None:
    index, blocks = exact()
    assert blocks.stored(hashes(0)[:5], None, tokens(0)[:5], 1, ROOT) == 5
    assert blocks.stored(hashes(0)[5:9], hashes(0)[4], tokens(0)[5:9], 1, ROOT) == 4
    assert index.match(CHAINS[0]) == {"a": 9}
    blocks.removed(hashes(0)[7:8])
    assert index.match(CHAINS[0]) == {"a": 7}


def test_integer_hashes_of_either_sign_are_understood() -> None:
    index, blocks = exact()
    blocks.stored([-5, 2**63], None, tokens(0)[:2], 1, ROOT)
    blocks.stored([0], 2**63, tokens(0)[2:3], 1, ROOT)
    assert index.match(CHAINS[0]) == {"a": 3}
    blocks.removed([-5])
    assert index.match(CHAINS[0]) == {"a": 0}


def test_a_block_reported_twice_is_gone_after_one_removal() -> None:
    index, blocks = exact()
    for _ in range(2):
        blocks.stored(hashes(0), None, tokens(0), 1, ROOT)
    blocks.removed(hashes(0)[:1])
    assert index.match(CHAINS[0]) == {"a": 0}
    assert len(blocks) == 11


def test_a_block_without_known_parent_is_counted_and_left_out() -> None:
    index, blocks = exact()
    assert blocks.stored(hashes(0)[3:], hashes(0)[2], tokens(0)[3:], 1, ROOT) == 0
    assert blocks.orphans == 9
    assert len(index) == len(blocks) == 0


def test_an_event_whose_tokens_do_not_fill_its_blocks_is_left_out() -> None:
    index, blocks = exact()
    assert blocks.stored(hashes(0)[:3], None, tokens(0)[:2], 1, ROOT) == 0
    assert blocks.orphans == 3
    assert len(index) == 0


@pytest.mark.parametrize("loss", ["cleared", "close"])
def test_no_ghost_block_after_clear_or_loss(loss: str) -> None:
    index, blocks = exact()
    other = ExactBlocks(index, "b", 100)
    for held in (blocks, other):
        held.stored(hashes(0), None, tokens(0), 1, ROOT)
    getattr(blocks, loss)()
    assert index.match(CHAINS[0]).get("a", 0) == 0
    assert index.match(CHAINS[0])["b"] == 12
    assert len(blocks) == 0
    other.close()
    assert len(index) == 0


def test_more_blocks_than_the_replica_has_means_missed_removals_and_a_purge() -> None:
    index, blocks = exact(capacity=15)
    blocks.stored(hashes(0), None, tokens(0), 1, ROOT)
    blocks.stored(hashes(0), None, tokens(0), 1, ROOT)
    assert blocks.overflows == 0
    assert blocks.stored(hashes(1), None, tokens(1), 1, ROOT) == 0
    assert blocks.overflows == 1
    assert len(index) == len(blocks) == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["stored", "removed", "cleared"]), st.integers(0, 3), st.integers(0, 11), st.integers(1, 12)
    ),
    max_size=50,
)


@given(EVENTS)
def test_exact_mode_holds_exactly_what_the_engine_says(events: list[tuple[str, int, int, int]]) -> None:
    index, blocks = exact(capacity=48)
    held: set[tuple[int, int]] = set()  # (chain, depth)
    for name, chain, start, count in events:
        stop = min(12, start + count)
        if name == "stored":
            parent = hashes(chain)[start - 1] if start else None
            known = not start or (chain, start - 1) in held
            blocks.stored(hashes(chain)[start:stop], parent, tokens(chain)[start:stop], 1, ROOT)
            held |= {(chain, depth) for depth in range(start, stop)} if known else set()
        elif name == "removed":
            blocks.removed(hashes(chain)[start:stop])
            held -= {(chain, depth) for depth in range(start, stop)}
        else:
            blocks.cleared()
            held.clear()
        assert len(blocks) == len(index) == len(held)
        for number, keys in enumerate(CHAINS):
            longest = next((depth for depth in range(12) if (number, depth) not in held), 12)
            assert index.match(keys) == {"a": longest}


# --- mirror


@settings(max_examples=60)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=120))
def test_mirror_is_an_lru_of_the_true_capacity(capacity: int, prompts: list[tuple[int, int]]) -> None:
    index = BlockIndex()
    mirror = MirrorBlocks(index, "a", capacity)
    model: OrderedDict[int, None] = OrderedDict()
    for chain, length in prompts:
        keys = CHAINS[chain][:length]
        mirror.used(keys)
        for key in reversed(keys):
            model[key] = None
            model.move_to_end(key)
        while len(model) > capacity:
            model.popitem(last=False)
        assert len(mirror) == len(index) == len(model) <= capacity
        assert all(index.holds("a", key) == (key in model) for keys in CHAINS for key in keys)


def test_mirror_stays_small_however_often_a_prompt_is_used_again() -> None:
    index = BlockIndex()
    mirror = MirrorBlocks(index, "a", 12)
    sizes = set()
    for _ in range(200):
        mirror.used(CHAINS[0])
        sizes.add(mirror.nbytes)
    assert max(sizes) < 2 * min(sizes)
    assert index.match(CHAINS[0]) == {"a": 12}


def test_a_cleared_mirror_starts_over() -> None:
    index = BlockIndex()
    mirror = MirrorBlocks(index, "a", 5)
    for chain in CHAINS:
        mirror.used(chain)
    mirror.cleared()
    assert len(index) == len(mirror) == 0
    mirror.used(CHAINS[1][:4])
    assert index.match(CHAINS[1]) == {"a": 4}
    mirror.close()
    assert index.match(CHAINS[1]) == {}


@pytest.mark.parametrize("mode", ["exact", "mirror"])
def test_index_and_feeder_stay_below_100_bytes_a_block(mode: str) -> None:
    index, replicas, each = BlockIndex(), 4, 5_000
    held: list[ExactBlocks | MirrorBlocks] = []
    for n in range(replicas):
        if mode == "exact":
            blocks = ExactBlocks(index, str(n), each)
            rng = random.Random(n)
            blocks.stored([rng.getrandbits(64) for _ in range(each)], None, range(each), 1, root_key(str(n)))
            held.append(blocks)
        else:
            mirror = MirrorBlocks(index, str(n), each)
            for prompt in range(15):
                mirror.used(block_keys(range(each // 5), 1, root_key(f"{n}-{prompt}")))
            held.append(mirror)
    assert sum(map(len, held)) == replicas * each
    assert index.nbytes + sum(part.nbytes for part in held) <= 100 * replicas * each
