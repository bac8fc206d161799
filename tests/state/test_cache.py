from state.cache import AgingCache


def test_a_value_is_forgotten_at_its_maximum_age():
    cache = AgingCache(10, 1.0)
    cache.store({b"a": 1}.items(), now=0.0)

    assert cache.find([b"a", b"b"], now=0.9) == {b"a": 1}
    assert cache.find([b"a"], now=1.0) == {}


def test_the_oldest_go_first_beyond_the_bound():
    cache = AgingCache(2, 10.0)
    cache.store({b"a": 1, b"b": 2}.items(), now=0.0)
    cache.store({b"a": 3}.items(), now=1.0)
    cache.store({b"c": 4}.items(), now=2.0)

    assert len(cache) == 2
    assert cache.find([b"a", b"b", b"c"], now=2.0) == {b"a": 3, b"c": 4}


def test_a_cache_of_no_entries_or_no_age_keeps_nothing():
    for cache in (AgingCache(0, 1.0), AgingCache(5, 0.0)):
        cache.store({b"a": 1}.items(), now=0.0)

        assert len(cache) == 0
