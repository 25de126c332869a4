

def test_a_variant_is_compared_under_its_own_name() -> None:
    from semiseg.comparison.entries import make_entries

    shared = {"data": "shapes", "weights": "none"}
    entries = make_entries(["cutmix-seg", "mean-teacher"], {"cutmix-seg": {"threshold": 0.9}}, shared, None, "file")
    assert list(entries) == ["cutmix-seg", "mean-teacher"]
    options = entries["cutmix-seg"].options
    assert (options.unsupervised_loss, options.threshold) == ("mse", 0.9)
    assert entries["cutmix-seg"].config.method == "mean-teacher"
