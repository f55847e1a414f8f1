"""Making a source once, to be opened at once ever after: images of any container as sharded ArrayRecord with a manifest.

Importing: `containers` finds what there is (folders, archives, lists), `members` reads the files of a folder or archive,
`sidecars` gives images the captions, licences and classes that stand beside them, `listing` writes down every image, `encode`
brings an image to its stored form, `depth` gathers the values of images of more than 8 bits, for which one range is decided,
`shards` writes stored images so that a kill or a full disk leaves nothing half, `importing` does all of it in parallel and
`on_beam` on many machines. Generating: `prompts` reads what is asked for, `diffusion` loads a
text-to-image pipeline, `generating` makes a source of its images. `folder` is the folder in the making for both. `manifest` is
the format, the only part that reading needs:

    DIR/images-00000-00000.array_record   each record an encoded image
    DIR/manifest.parquet                  a row per record: origin, sizes, digest, perceptual hash, licence, label, ...
    DIR/refused.csv                       path and reason of what is not among them
    DIR/source.json                       shards with their numbers of records, classes, licence, cost, fingerprint, ...
    DIR/parts/                            work in progress; gone when the import is done
"""
