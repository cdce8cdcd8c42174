"""The commands of ``megaent``, one file each; they may import everything, and ``cli`` alone imports them."""
