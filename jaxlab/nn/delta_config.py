"""Sizes and switches of a gated-delta layer, and the published members of the family by name."""

import dataclasses
from typing import Any, Literal, NamedTuple

from jaxlab import ranges

Form = Literal["symmetric", "left", "gdn2"]
Decay = Literal["none", "head", "channel"]
Erase = Literal["head", "channel"]
Write = Literal["same", "head", "channel"]
OutputGate = Literal["none", "sigmoid", "swish"]
RuleName = Literal["delta_net", "gdn", "kda", "fg2", "fg2_plus", "separate_scalars", "left", "gdn2"]


class Switches(NamedTuple):
    """What tells the members of the family apart; see `DeltaConfig` for the values."""

    form: Form
    decay: Decay
    erase: Erase
    write: Write
    output_gate: OutputGate


RULES: dict[RuleName, Switches] = {
    # Yang et al. 2024, arXiv 2406.06484; without output gate, as its authors' code has it.
    "delta_net": Switches("symmetric", "none", "head", "same", "none"),
    # Gated DeltaNet, arXiv 2412.06464.
    "gdn": Switches("symmetric", "head", "head", "same", "swish"),
    # Kimi Delta Attention, arXiv 2510.26692.
    "kda": Switches("symmetric", "channel", "head", "same", "sigmoid"),
    # FG2-GDN and FG2-GDN+, arXiv 2604.19021, Eqs 8-14: the root of a gate on both sides.
    "fg2": Switches("symmetric", "channel", "channel", "same", "sigmoid"),
    "fg2_plus": Switches("symmetric", "channel", "channel", "channel", "sigmoid"),
    # Two rows of its argument: FG2-GDN+ with a number per head for each gate (table 4), and the
    # vector gate on one side, which section 3 rejects.
    "separate_scalars": Switches("symmetric", "channel", "head", "head", "sigmoid"),
    "left": Switches("left", "channel", "channel", "same", "sigmoid"),
    # Gated DeltaNet-2, arXiv 2605.22791.
    "gdn2": Switches("gdn2", "channel", "channel", "channel", "sigmoid"),
}


class Sizes(NamedTuple):
    """H heads of queries and keys of size Dk, HV heads of values of size Dv."""

    heads: int
    value_heads: int
    key_dim: int
    value_dim: int


@dataclasses.dataclass(frozen=True)
class DeltaConfig:
    """A gated-delta layer. `DeltaConfig(rule="kda")` is a published one; the rest departs from it.

    Where FG2-GDN leaves something open (its projections, their biases and ranks, the output gate),
    the defaults are those of Kimi Delta Attention, of which it changes the gates alone.

    Attributes:
        rule: which member of the family (`RULES`); the five fields that are None by default are
            then what it says.
        head_dim: Dk, size of query and key heads (128 in KDA and FG2-GDN).
        num_heads: H, query and key heads; None means hidden_size / head_dim.
        num_value_heads: HV, value heads, a multiple of H: value head i goes with key head
            i // (HV / H). Gates and decays are per value head. None means H.
        expand_value: Dv / Dk.
        conv_size: width of the causal convolutions behind the projections of queries, keys and
            values (4 in all of the papers); 0 means none.
        form: of the edit, "symmetric", "left" or "gdn2": see `jaxlab_kernels.gated_delta`.
        decay: a log decay per "head" (GDN), per "channel" of the key (KDA), or "none" (DeltaNet).
        decay_rank: of its projection; 0 means full; None means Dv for a decay per channel (KDA) and
            full for one per head (GDN).
        decay_lower_bound: None for -exp(A_log) softplus(x + dt_bias) (GDN, KDA). A number L < 0
            (-5 in the released KDA kernels) for L sigmoid(exp(A_log) (x + dt_bias)), which no token
            can exceed.
        erase: the gate on what is taken out, per "head" or per "channel" of the key.
        erase_rank: of its projection; 0 means full (as in Gated DeltaNet-2; FG2-GDN does not say).
        write: the gate on what is put in, per "head", per "channel" of the value, or the "same"
            numbers as the erase gate.
        write_rank: of its projection; 0 means full.
        negative_eigenvalues: gates in (0, 2) instead of (0, 1), so that an edit may flip a
            direction (Grazzi et al. 2024, arXiv 2411.12537); for the form "gdn2" the erase gate
            alone.
        output_gate: "sigmoid" (KDA) or "swish" (GDN) of a projection, times the normed output; or
            "none".
        output_gate_rank: of that projection; 0 means full and without bias; a low-rank one has a
            bias (KDA). None means Dv for "sigmoid" (KDA) and full for "swish" (GDN).
        name: the tag of this mixer in a config.
    """

    rule: RuleName = "fg2"
    head_dim: int = 128
    num_heads: int | None = None
    num_value_heads: int | None = None
    expand_value: float = 1.0
    conv_size: int = 4
    form: Form | None = None
    decay: Decay | None = None
    decay_rank: int | None = None
    decay_lower_bound: float | None = None
    erase: Erase | None = None
    erase_rank: int = 0
    write: Write | None = None
    write_rank: int = 0
    negative_eigenvalues: bool = False
    output_gate: OutputGate | None = None
    output_gate_rank: int | None = None
    name: Literal["delta"] = "delta"

    def __post_init__(self) -> None:
        """Check numbers, and that no two switches contradict each other."""
        ranges.check(self, "expand_value", "decay_lower_bound")
        ranks = ("decay_rank", "erase_rank", "write_rank", "output_gate_rank")
        sizes = ("head_dim", "num_heads", "num_value_heads", "conv_size")
        ranges.check(self, *sizes, *ranks, below=ranges.COUNTS)
        if self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} is none of {', '.join(RULES)}")
        for reason in _contradictions(self, self.switches):
            raise ValueError(reason)

    def module(self, **shared: Any) -> Any:
        """Returns the layer; see `jaxlab.nn.layers.Mixer` for what all mixers share."""
        from jaxlab.nn.delta import GatedDelta  # which imports this module

        return GatedDelta(config=self, **shared)

    @property
    def switches(self) -> Switches:
        """The rule's switches, with those that are given in their place."""
        given = {name: getattr(self, name) for name in Switches._fields}
        return RULES[self.rule]._replace(**{k: v for k, v in given.items() if v is not None})

    def sizes(self, hidden_size: int) -> Sizes:
        """Heads and their sizes in a layer of width `hidden_size`.

        Raises:
            ValueError: they do not come out even.
        """
        if self.num_heads is None and hidden_size % self.head_dim:
            raise ValueError(
                f"delta.num_heads is not given and hidden_size {hidden_size} is no multiple of "
                f"delta.head_dim {self.head_dim}: give one that fits"
            )
        heads = self.num_heads or hidden_size // self.head_dim
        value_heads = self.num_value_heads or heads
        if value_heads % heads:
            raise ValueError(
                f"delta.num_value_heads {value_heads} is no multiple of the {heads} heads of keys"
            )
        return Sizes(heads, value_heads, self.head_dim, round(self.expand_value * self.head_dim))

    def resolved(self, hidden_size: int) -> "DeltaConfig":
        """The same layer with every None written out; of decay_lower_bound None is a value.

        Raises:
            ValueError: as `sizes` does.
        """
        heads, value_heads, _, value_dim = self.sizes(hidden_size)
        switches = self.switches
        ranks: dict[str, Any] = {
            "decay_rank": value_dim if switches.decay == "channel" else 0,
            "output_gate_rank": value_dim if switches.output_gate == "sigmoid" else 0,
        }
        given = {name: getattr(self, name) for name in ranks}
        ranks |= {name: rank for name, rank in given.items() if rank is not None}
        return dataclasses.replace(
            self, num_heads=heads, num_value_heads=value_heads, **switches._asdict(), **ranks
        )


def _contradictions(c: DeltaConfig, s: Switches) -> list[str]:
    """What is wrong, one line each: the field, the cause and the cure."""
    value_dim = c.expand_value * c.head_dim
    sizes = {
        "head_dim": (c.head_dim, 1),
        "num_heads": (c.num_heads, 1),
        "num_value_heads": (c.num_value_heads, 1),
        "conv_size": (c.conv_size, 0),
        "decay_rank": (c.decay_rank, 0),
        "erase_rank": (c.erase_rank, 0),
        "write_rank": (c.write_rank, 0),
        "output_gate_rank": (c.output_gate_rank, 0),
    }
    found = [
        f"delta.{name} is {value}: it must be at least {least}"
        for name, (value, least) in sizes.items()
        if value is not None and value < least
    ]
    checks = [
        (
            value_dim < 1 or value_dim != round(value_dim),
            f"delta.expand_value {c.expand_value} times delta.head_dim {c.head_dim} is {value_dim}:"
            " the size of a value head must be a whole number",
        ),
        (
            s.form == "left" and s.write != "same",
            f"delta.write is {s.write!r}, but the form 'left' has one gate: set write to 'same', or"
            " form to 'symmetric' or 'gdn2'",
        ),
        (
            s.form != "left"
            and (s.erase, s.write) == ("channel", "same")
            and value_dim != c.head_dim,
            f"delta.expand_value is {c.expand_value}, but the erase gate of {c.head_dim} channels"
            f" serves values of {value_dim} too: set it to 1, or write to 'channel' or 'head'",
        ),
        (
            c.decay_lower_bound is not None and s.decay == "none",
            "delta.decay_lower_bound is given, but decay is 'none': drop it, or set decay",
        ),
        (
            c.decay_lower_bound is not None and not c.decay_lower_bound < 0,
            f"delta.decay_lower_bound is {c.decay_lower_bound}: log decays are negative, so must it"
            " be",
        ),
        (
            bool(c.decay_rank) and s.decay != "channel",
            f"delta.decay_rank is {c.decay_rank}, but decay is {s.decay!r}: a rank is for one per"
            " 'channel'; drop it",
        ),
        (
            bool(c.erase_rank) and s.erase != "channel",
            f"delta.erase_rank is {c.erase_rank}, but erase is {s.erase!r}: a rank is for a gate"
            " per 'channel'; drop it",
        ),
        (
            bool(c.write_rank) and s.write != "channel",
            f"delta.write_rank is {c.write_rank}, but write is {s.write!r}: a rank is for a gate"
            " per 'channel'; drop it",
        ),
        (
            bool(c.output_gate_rank) and s.output_gate == "none",
            f"delta.output_gate_rank is {c.output_gate_rank}, but output_gate is 'none': drop it,"
            " or set output_gate",
        ),
    ]
    return found + [reason for wrong, reason in checks if wrong]
