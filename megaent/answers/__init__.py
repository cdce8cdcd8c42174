"""Mathematical answers as text: where they stand, what they say, and whether two of them say the same.

    boxes     braces and \\boxed{} in a text        find     the final answer of a response
    key       the answer key of a data row          copied   an answer taken over from its question
    notation  many ways to write, one to read       tree     that text as a tree of operations
    value     the exact value of a tree             read     lists, intervals, units, words around trees
    units     what a quantity is measured in        compare  equal, different, or not for us to say

``data`` (for keys) and ``reward`` (for responses) import this package, and so do commands that show answers
to people. It imports nothing of megaent, evaluates no text as code, and is the same in every environment.
"""
