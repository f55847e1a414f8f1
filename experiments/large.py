"""What the studies of ImageNet's size share, and how its images and those of YFCC100M are brought to where they read them.

    mkdir -p /data/raw/imagenet/train /data/raw/imagenet/val && cd /data/raw/imagenet  # the three archives of image-net.org
    tar -xf ILSVRC2012_img_train.tar -C train && tar -xf ILSVRC2012_img_val.tar -C val && tar -xf ILSVRC2012_devkit_t12.tar.gz
    for tar in train/*.tar; do mkdir ${tar%.tar} && tar -xf $tar -C ${tar%.tar} && rm $tar; done
    python -m tools.list_images --layout=imagenet --input=/data/raw/imagenet
    for split in train test; do
      python -m tools.import_images --input=/data/raw/imagenet/$split.csv --output=/data/imagenet/$split --size=224
    done
    python -m tools.import_images --input=/data/raw/yfcc --output=/data/yfcc --size=224  # files, zip archives or tar shards

ImageNet's published validation images are the test split. An import works on all cores, goes on where it was stopped, and is
done once.
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
    # 5 of the 50 epochs that the budget is of all of ImageNet; the recipes' share is of 1,000 epochs of CIFAR.
    warmup=0.1,
    checkpoint_every=5000,
    workers=16,
)
