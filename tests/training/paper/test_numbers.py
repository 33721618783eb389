from larq_ensemble.training.paper import numbers as paper


def test_accuracies_are_by_members_without_those_that_the_paper_lacks():
    fusion = paper.accuracies("cifar100", "resnet18", scheme="fusion", sharing="fusion")
    assert fusion == {2: 68.63, 4: 69.12, 6: 69.08}
    bagging = paper.accuracies("cifar100", "reactnet10", scheme="batch_bagging", sharing="fusion")
    assert bagging == {10: 70.29}
    # The log of M = 10 stops in member 7.
    boosting = paper.accuracies("cifar100", "resnet20", scheme="boosting", sharing="fusion")
    assert boosting == {2: 35.68, 4: 36.42, 6: 37.65, 8: 37.84}


def test_the_papers_bagging_takes_a_part_of_each_batch():
    """So its values are not those of a bootstrap of the data set, our `bagging`."""
    arguments = {"dataset": "cifar100", "model": "resnet20", "sharing": "fusion"}
    assert paper.accuracies(**arguments, scheme="batch_bagging")[4] == 51.44
    assert paper.accuracies(**arguments, scheme="bagging") == {}


def test_policies_are_those_of_fusion_ensembles():
    assert paper.accuracies("cifar100", "resnet20", scheme="fusion", sharing="c3")[10] == 57.7
    assert paper.accuracies("cifar100", "resnet20", scheme="batch_bagging", sharing="c3") == {}


def test_what_the_paper_does_not_have_is_no_error():
    assert paper.accuracies("digits", "resnet20", scheme="fusion", sharing="fusion") == {}
    assert paper.accuracies("cifar10", "resnet20", scheme="voting", sharing="fusion") == {}
    assert paper.single_accuracy("cifar10", "resnet18") is None
    assert paper.single_accuracy("cifar10", "resnet20") == 84.06


def test_every_row_has_a_value_or_null_for_each_number_of_members():
    accuracy = paper.paper()["accuracy"]
    for dataset in ("cifar10", "cifar100"):
        for network in accuracy[dataset].values():
            for rows in (network.get("schemes", {}), network.get("sharing", {})):
                for name, row in rows.items():
                    assert len(row) == len(paper.paper()["members"]) == 5, name


def test_the_energy_model_is_proportional_to_members():
    assert paper.energy_mj(1) == 1.92
    assert paper.energy_mj(10) == 19.2
