//! Attention to listed keys against its composed form and against plain attention.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::{close, leaf, noise, same};
use crate::*;

/// Blocks of 1, 3 and 20 queries that list some of `keys` rows, and one that lists none.
fn lists(keys: u32) -> Arc<KeyLists> {
    let mut lists = KeyLists::default();
    lists.push_one([0, keys - 1]);
    lists.push((0..keys).rev(), (0..20).map(|i| i % 3..(i + 4).min(keys)));
    lists.push([], [0..0, 0..0]);
    lists.push((0..2 * keys).map(|e| e / 2), (0..3).map(|i| i..keys + i));
    lists.push_one([]);
    Arc::new(lists)
}

#[test]
fn attention_to_lists_equals_its_composed_form() {
    for (keys, n_heads, n_kv_heads, d_head, d_value) in [(1, 1, 1, 1, 1), (7, 2, 1, 3, 5), (33, 4, 2, 16, 16)] {
        let heads = Heads { batch: 0, n_heads, n_kv_heads, d_head };
        let lists = lists(keys as u32);
        same(
            &format!("listed attention of {keys} keys"),
            [
                leaf([27, n_heads * d_head], 1),
                leaf([keys, n_kv_heads * d_head], 2),
                leaf([keys, n_kv_heads * d_value], 3),
            ],
            |qkv| attention_listed(qkv, heads, &lists, Precision::F32),
            |qkv| crate::listed::composed(qkv, heads, &lists),
        );
    }
}

#[test]
fn steps_that_list_everything_equal_plain_steps() {
    let heads = Heads { batch: 1, n_heads: 4, n_kv_heads: 2, d_head: 8 };
    let tensor = |rows: usize, width, salt| from_vec(noise(rows * width, salt), [rows, width], &Device::flex());
    let mut caches = [LayerCache::default(), LayerCache::default()];
    let mut listed = caches.clone();
    for (step, rows) in [[5, 3], [1, 1], [12, 1]].into_iter().enumerate() {
        let n = rows[0] + rows[1];
        let qkv = || -> [Tensor<2>; 3] {
            let salt = 10 * step as u64;
            [tensor(n, 32, salt), tensor(n, 16, salt + 1), tensor(n, 16, salt + 2)]
        };
        let all = |rows: usize, total: usize| {
            let mut lists = KeyLists::default();
            lists.push(0..total as u32, (total - rows..total).map(|i| 0..i as u32 + 1));
            lists
        };
        let spans = |caches: &mut [LayerCache; 2], run: &dyn Fn(&mut [Span<'_>]) -> Tensor<2>| {
            let mut spans: Vec<Span<'_>> =
                caches.iter_mut().zip(rows).map(|(cache, rows)| Span { cache, rows }).collect();
            to_vec(&run(&mut spans))
        };
        let options = AttentionOptions::default();
        let want = spans(&mut caches, &|spans| attention_cached(qkv(), heads, &options, None, spans));
        let got = spans(&mut listed, &|spans| attention_cached_listed(qkv(), heads, Precision::F32, spans, &all));
        close("a step", &got, &want);
        assert_eq!(listed.each_ref().map(LayerCache::bytes), caches.each_ref().map(LayerCache::bytes));
    }
}
