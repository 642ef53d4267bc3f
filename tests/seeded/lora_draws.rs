//! What adapters are drawn as.

use crate::alone;
use crate::oracle::{self, Mlp};
use burn::module::{Lora, Module};
use burn::tensor::Device;
use burn_dist::launch::Threads;
use burn_dist::{Destination, LoraConfig};

#[test]
fn adapters_are_those_that_burn_draws_on_an_initialised_model() {
    let _alone = alone();
    let device = Device::flex();
    device.seed(7);
    let plain = Mlp::new(2, &device);
    // All weights are drawn before the first adapter.
    let weights = oracle::values(&plain);
    let adapted = plain.apply_lora(Lora::new(2, 5.0));
    let expected = oracle::values(&adapted);
    assert!(expected.len() > weights.len());
    for size in 1..=3 {
        for strategy in oracle::strategies(size) {
            let found = Threads::new(size)
                .seed(7)
                .run(|world| {
                    let strategy = strategy.clone().lora(LoraConfig::new(2, 5.0));
                    let model = strategy.shard(Mlp::new(2, &world.device()), &world)?;
                    world.full_with_adapters(&model, Destination::Chief)
                })
                .unwrap();
            let found = oracle::values(found[0].as_ref().unwrap());
            assert_eq!(found, expected, "{strategy} over {size}");
        }
    }
}
