"""Makes a source once, to be opened quickly ever after: images of any container become ArrayRecord shards with a manifest.

An import runs through these files: `listing` finds the containers (folders, archives, lists) and writes down every image,
`members` reads the files of a container, `sidecars` joins each image with the captions, licences and classes beside it,
`encode` brings an image to its stored form, `shards` writes stored images so that a kill or a full disk leaves nothing half,
`importing` is the sequence of these steps, and `running` runs them in parallel processes or on the machines of an Apache Beam
pipeline. `published` writes the lists of well-known datasets as their authors publish them.

A generation runs through `prompts` (the requests for images), `diffusion` (a text-to-image pipeline) and `generating`.

`folder` holds the settings, the lock and the work in progress of both. The format is `sslshift.data.sources.manifest`:

    DIR/images-00000-00000.array_record   each record an encoded image
    DIR/manifest.parquet                  a row per record: origin, sizes, digest, perceptual hash, licence, label, ...
    DIR/refused.csv                       path and reason of every image that was refused
    DIR/source.json                       shards with their numbers of records, classes, licence, cost, fingerprint, ...
    DIR/parts/                            work in progress; removed when the source is complete

To support another kind of archive, add its name to `sources/recognise.py` and its members to `members.py`; another published
dataset is one function and one entry of `LAYOUTS` in `published.py`.
"""
