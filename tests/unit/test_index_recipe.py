from __future__ import annotations

from pipeline.base.settings import Settings
from pipeline.index.recipe import Recipe, recipe_for


def test_equal_parts_in_any_order_are_the_same_recipe() -> None:
    assert Recipe.of({"a": "1", "b": "2"}) == Recipe.of({"b": "2", "a": "1"})
    assert Recipe.of({"a": "1", "b": "2"}).digest == Recipe.of({"b": "2", "a": "1"}).digest


def test_whatever_changes_vectors_changes_the_digest() -> None:
    settings = Settings()
    recipes = [
        recipe_for(settings),
        recipe_for(settings.model_copy(update={"model": "hash:64"})),
        recipe_for(settings.model_copy(update={"passage_tokens": 64})),
    ]
    assert len({recipe.digest for recipe in recipes}) == 3


def test_what_changes_no_vector_changes_no_digest() -> None:
    settings = Settings()
    assert recipe_for(settings).digest == recipe_for(settings.model_copy(update={"token_budget": 7, "workers": 3})).digest
