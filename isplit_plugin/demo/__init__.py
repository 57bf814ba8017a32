"""The demo: one run of the whole product on a real ImageNet network, real photos and a real TorchServe."""
