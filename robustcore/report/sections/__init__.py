"""The sections of a report, in its order: each file is one.

A section is a module with NAME (of its files and of --sections), `measure(model, job, name)`, which
returns records by name for one model or raises Skip, and `show(job)`, which makes the Section from
the records of all models, or raises Skip. The records of earlier sections are in job.records.
"""

from robustcore.report.sections import (
    agreement,
    audit,
    corruptions,
    distance,
    noise,
    noisy_points,
    rare,
    settings,
    slices,
)

ORDER = (noise, distance, agreement, noisy_points, audit, rare, slices, corruptions, settings)
SECTIONS = {each.NAME: each for each in ORDER}
