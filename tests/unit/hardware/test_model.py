import dataclasses

from driver.hardware.fake import profile


def test_of_two_gpus_with_one_name_the_first_counts_and_the_order_stays():
    inventory = profile.load_profile("h100x8").inventory()
    first, second, third, *_ = inventory.gpus
    twin = dataclasses.replace(second, name=first.name)

    by_name = dataclasses.replace(inventory, gpus=(third, first, twin)).by_name()

    assert list(by_name.items()) == [("gpu-2", third), ("gpu-0", first)]
