"""Skins: each names eight people and one kind of thing."""

from jaxlab.evals.general365.families.types import Skin

SKINS = (
    Skin(
        ("Ada", "Boris", "Clara", "Deniz", "Emil", "Fatima", "Georg", "Hana"),
        "lantern",
        "the harbour office",
        "The office has 3 windows, and 17 letters arrived on Monday.",
    ),
    Skin(
        ("Ines", "Jonas", "Kira", "Luka", "Mina", "Nils", "Olga", "Paolo"),
        "teapot",
        "the village hall",
        "The hall was painted 12 years ago and seats 140 people.",
    ),
    Skin(
        ("Quinn", "Rosa", "Sven", "Tara", "Umar", "Vera", "Wim", "Xenia"),
        "drum",
        "the music school",
        "The school owns 6 pianos, of which 2 are out of tune.",
    ),
    Skin(
        ("Yara", "Zeno", "Alma", "Bruno", "Celia", "Dario", "Edda", "Falk"),
        "kite",
        "the summer camp",
        "It rained for 4 days, and the kitchen baked 55 loaves.",
    ),
    Skin(
        ("Gita", "Hugo", "Ilse", "Jan", "Katja", "Leon", "Marta", "Nora"),
        "basket",
        "the market square",
        "The fountain there is 9 metres wide and holds 21 fish.",
    ),
)
