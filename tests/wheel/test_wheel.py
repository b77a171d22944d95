"""A wheel without the core, from its installation to a trained model; test_release.py has the one with the core."""


def test_without_the_core(environment, make_dist, copy_source, no_core, pinned_detectron2, tmp_path):
    wheel = make_dist.build_wheel(make_dist.build_sdist(copy_source(tmp_path / "source"), tmp_path), tmp_path)
    environment.pip_install(wheel)
    facts = environment.begin(pinned_detectron2)
    assert facts["backends"].startswith("torch (the compiled core was not built)")
    names = environment.run("python", "-c", "from libra_d2.config.files import config_names; print(*config_names())")
    assert "finetune/libra_faster_rcnn_R_50_FPN_1x.yaml" in names
