"""Makes sources that open quickly: an import writes the images of any container once, as ArrayRecord shards with a manifest.

An import uses these files: `listing` finds the containers (folders, archives, lists) and lists every image, `members` reads the
files of a container, `sidecars` joins each image with the captions, licences and classes beside it, `encode` converts an image
to its stored form, `shards` writes stored images so that each shard is complete or absent, `importing` defines the sequence of
these steps, and `running` runs them in parallel processes or on the machines of an Apache Beam pipeline. `published` writes
lists for well-known datasets in the form that their authors publish. `outcome` describes the result to people.

A generation uses `prompts` (the requests for images), `diffusion` (a text-to-image pipeline) and `generating`.

Both use `folder` for their settings, lock and work in progress. `sslshift.data.sources.manifest` defines the format:

    DIR/images-00000-00000.array_record   each record is an encoded image
    DIR/manifest.parquet                  a row per record: origin, sizes, digest, perceptual hash, licence, label, ...
    DIR/refused.csv                       path and reason of every image that was refused
    DIR/source.json                       shards with their numbers of records, classes, licence, cost, fingerprint, ...
    DIR/parts/                            work in progress; removed when the source is complete

To support another kind of archive, add its name to `sources/recognise.py`, its members to `members.py` and its case to
`listing.py`. To support another published dataset, add a function and an entry of `LAYOUTS` to `published.py`.
"""
