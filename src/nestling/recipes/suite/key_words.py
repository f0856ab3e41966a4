"""Words of which keys of needles are made: ADJECTIVE-NOUN."""

from __future__ import annotations

__all__ = ["ADJECTIVES", "NOUNS"]

_ADJECTIVES = """
able amber ancient bitter bold brave bright brisk calm careful clever cold crimson curious daring deep eager
early faint fancy fierce fine fresh gentle giant glad golden grand green happy hasty heavy hidden hollow
honest humble icy idle jolly keen kind late lively lonely loud lucky mellow mighty mild narrow neat noble odd
pale patient plain proud quick quiet rapid rare ripe rough round rusty shallow sharp shiny silent silver
simple sleepy slow small smooth soft solid sour spare steep still stout strange strong sunny sweet swift tall
tame tender thin tidy tiny vast warm weary wide wild wise witty young
"""
_NOUNS = """
anchor apple arrow badge barrel basket beacon beetle bell blanket boat bottle branch bridge brush bucket
button cabin candle canyon carpet castle cedar chair cherry clock cloud compass copper corner cradle crystal
cup curtain desk dolphin door drum eagle engine falcon feather fence fiddle flute forest fountain garden gate
glove hammer harbor hat hill island jacket jar kettle key kite ladder lake lamp lantern leaf lemon letter lily
lion map marble meadow mirror moon mountain needle nest oak ocean orchard otter owl paddle pebble pencil
pepper piano pillow planet plum pocket pond quilt rabbit ribbon river road robin rocket roof saddle sail
shadow shell ship spoon statue stone table temple tiger tower train tunnel valley violin wagon walnut whistle
willow window
"""

ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
