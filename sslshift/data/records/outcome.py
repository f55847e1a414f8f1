"""Sentences about a source that an import or a generation has made, for the people who run it."""

from pathlib import Path

from sslshift.data.records.importing import Import, Result
from sslshift.data.sources.base import printable
from sslshift.data.sources.manifest import Summary, read_columns
from sslshift.data.sources.refusals import REFUSED, read_examples
from sslshift.data.sources.uri import Uri

# Largest number of faults, or of kinds of files, that are named; `refused.csv` has all faults.
_NAMED = 5


def describe_import(result: Result, job: Import) -> list[str]:
    """Returns lines about the images that were imported and the files that were not imported."""
    summary = result.summary
    labelled = f", {len(summary.classes)} classes" if summary.classes else ""
    labelled += ", any number of classes per image" if summary.multi_label else ""
    lines = [f"{summary.records:,} images in {_shards(summary)}{labelled}, {_licence(summary, job.output)}"]
    if result.earlier:
        lines.append("The source was made by an earlier call; to import later changes of the input, name another output")
    lines += [f"WARNING: {path}: {reason}" for path, reason in result.faults[:_NAMED]]
    if len(result.faults) > _NAMED:
        lines.append(f"WARNING: {len(result.faults) - _NAMED:,} more archives or folders could not be read completely")
    # Labels are all or nothing: one image without a label makes a source without labels.
    if not summary.multi_label and not summary.classes:
        lines += _unlabelled(summary, job)
    if job.labels == "multi" and not summary.classes:
        lines.append("No labels: no stored image has a label")
    lines += summary.notes
    lines += _refused(summary, job.output)
    if result.others:
        some = sorted(result.others.items(), key=lambda item: -item[1])[:_NAMED]
        kinds = ", ".join(f"{count:,} {extension}" for extension, count in some)
        lines.append(f"{sum(result.others.values()):,} files of other kinds were ignored: {kinds}")
    return lines


def describe_generation(summary: Summary, output: Path) -> list[str]:
    """Returns lines about the images that were generated and the images that were refused."""
    classes = f"{len(summary.classes or ()):,} classes"
    first = f"{summary.records:,} images of {classes} in {_shards(summary)}, {_licence(summary, output)}"
    return [first, *_refused(summary, output)]


def _shards(summary: Summary) -> str:
    mebibytes = sum(shard.bytes for shard in summary.shards) / 2**20
    return f"{len(summary.shards):,} shards ({mebibytes:,.0f} MiB)"


def _licence(summary: Summary, output: Path) -> str:
    return f"licence: {summary.licence}. Open them as {Uri('arrayrecord', str(output))}"


def _refused(summary: Summary, output: Path) -> list[str]:
    if not summary.refused:
        return []
    some = read_examples(output)
    begin = f": {some}" if some else ""
    return [f"{summary.refused:,} refused, each with its reason in {printable(output / REFUSED)}{begin}"]


def _unlabelled(summary: Summary, job: Import) -> list[str]:
    """Returns the reason why there are no labels, if some images could have one."""
    (classes,) = read_columns(job.output, ["class"])
    if job.labels != "folder" and classes.null_count == summary.records:
        return []
    lack = "are in no class folder" if job.labels == "folder" else "have no label"
    share = f"{classes.null_count:,} of {summary.records:,} images"
    return [f"No labels: {share} {lack}; the manifest's column 'class' is null for these images"]
