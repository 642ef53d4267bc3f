//! Elements of a sharded model, each visited on one rank.

use crate::oracle::{Mlp, ranks, strategies, undrawn, values};
use burn::tensor::Tensor;
use burn_dist::{Result, World};

/// What gives elements to a closure.
type Each<'a> = &'a mut dyn FnMut(&str, &[f64]);

/// All elements that ranks visit, sorted.
fn visited(world: &World, visit: impl FnOnce(Each<'_>) -> Result<()>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    visit(&mut |_, elements| found.extend(elements.iter().map(|x| x.to_bits())))?;
    let mut all: Vec<u64> = world.gather(&found)?.concat();
    all.sort_unstable();
    Ok(all)
}

#[test]
fn every_element_of_parameters_and_gradients_is_visited_on_one_rank() {
    for size in [1, 2, 3, 4] {
        for strategy in strategies(size) {
            let run = |world: World| {
                let model = undrawn(Mlp::new(3, &world.device()));
                let mut plain: Vec<u64> = Vec::new();
                for elements in values(&model).values() {
                    plain.extend(elements.iter().map(|x| x.to_bits()));
                }
                plain.sort_unstable();
                let model = strategy.clone().shard(model, &world)?;
                let parameters = visited(&world, |each| world.visit_elements(&model, each))?;
                assert_eq!(parameters, plain, "{strategy} at {size}");
                let x = Tensor::<2>::ones([4, 7], &world.device());
                let gradients = world.backward(model.forward(x).sum(), &model)?;
                let gathered = visited(&world, |each| gradients.visit_elements(each))?;
                let squares: f64 = gathered.iter().map(|x| f64::from_bits(*x).powi(2)).sum();
                let norm = gradients.norm()?;
                assert!(
                    (squares.sqrt() / norm - 1.0).abs() < 1e-9,
                    "{strategy} at {size}"
                );
                assert_eq!(gathered.len(), plain.len());
                Ok(())
            };
            ranks(size).run(run).unwrap();
        }
    }
}
