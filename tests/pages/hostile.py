"""Names that would be markup, script or a reordering of the page, if a page took them for more than text."""

NAMES = (
    "</script><script>document.title='run'</script>", "<img src=x onerror=\"document.title='run'\">", "<!--<script>",
    "a\"b'c`d{{7*7}}{% raw %}", "x" * 300, "y" * 4096, "\u05e9\u05dc\u05d5\u05dd.\u05e2\u05d5\u05dc\u05dd.weight", "\u202egpj.exe",
    "\x1b[31mred", "a.\x00b", "a", "a.b", "line\nbreak", "]]>&amp;&lt;", "\u2028\u2029", "__proto__", "constructor.prototype", "",
)  # fmt: skip
