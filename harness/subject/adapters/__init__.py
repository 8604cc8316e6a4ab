"""Subjects that ship: each module is one, named like its file, with its function called `attention`.

They are imported only when they are asked for by name (`flashattest fuzz --subject sdpa`).
"""
