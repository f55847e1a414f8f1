"""Makes sources that open quickly: images of any container become ArrayRecord shards with a manifest, once.

An import runs through these files: `listing` finds the containers (folders, archives, lists) and lists every image,
`members` reads the files of a container, `sidecars` joins each image with the captions, licences and classes beside it,
`encode` brings an image to its stored form, `shards` writes stored images so that each shard is complete or absent,
`importing` is the sequence of these steps, and `running` runs them in parallel processes or on the machines of an Apache Beam
pipeline. `published` writes the lists of well-known datasets as their authors publish them. `outcome` describes the result to
people.

A generation runs through `prompts` (the requests for images), `diffusion` (a text-to-image pipeline) and `generating`.

`folder` holds the settings, the lock and the work in progress of both. The format is `sslshift.data.sources.manifest`:

    DIR/images-00000-00000.array_record   each record an encoded image
    DIR/manifest.parquet                  a row per record: origin, sizes, digest, perceptual hash, licence, label, ...
    DIR/refused.csv                       path and reason of every image that was refused
    DIR/source.json                       shards with their numbers of records, classes, licence, cost, fingerprint, ...
    DIR/parts/                            work in progress; removed when the source is complete

To support another kind of archive, add its name to `sources/recognise.py`, its members to `members.py` and its case to
`listing.py`; another published dataset is one function and one entry of `LAYOUTS` in `published.py`.
"""
