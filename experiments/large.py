"""Common settings of the studies at ImageNet's size, and commands that prepare the images of ImageNet and YFCC100M.

    mkdir -p /data/raw/imagenet/train /data/raw/imagenet/val && cd /data/raw/imagenet  # the three archives of image-net.org
    tar -xf ILSVRC2012_img_train.tar -C train && tar -xf ILSVRC2012_img_val.tar -C val && tar -xf ILSVRC2012_devkit_t12.tar.gz
    for tar in train/*.tar; do mkdir ${tar%.tar} && tar -xf $tar -C ${tar%.tar} && rm $tar; done
    python -m tools.list_images --layout=imagenet --input=/data/raw/imagenet
    for split in train test; do
      python -m tools.import_images --input=/data/raw/imagenet/$split.csv --output=/data/imagenet/$split --size=224
    done
    python -m tools.import_images --input=/data/raw/yfcc --output=/data/yfcc --size=224  # files, zip archives or tar shards

The test split consists of the published validation images of ImageNet. An import uses all cores, continues after an
interruption, and is needed only once.
"""

from sslshift.study import Study

IMAGENET = "arrayrecord:/data/imagenet/train"
IMAGENET_TEST = "arrayrecord:/data/imagenet/test"
YFCC = "arrayrecord:/data/yfcc"
FOOD = "arrayrecord:/data/food/train"
FOOD_TEST = "arrayrecord:/data/food/test"

LARGE = Study(
    downstream=IMAGENET,
    downstream_test=IMAGENET_TEST,
    labelled=0,
    image_size=224,
    budget=64_000_000,
    batch_size=512,
    seeds=3,
    encoder="resnet50",
    dtype="bfloat16",
    # The budget is 50 epochs of ImageNet, so this is 5 epochs. The share in the recipes is for 1,000 epochs of CIFAR.
    warmup=0.1,
    checkpoint_every=5000,
    workers=16,
)
