//! A trained shard of a unit, for the token of a call whose inputs take no gradients.
//!
//! Without a token that is on the tape, what is frozen in such a unit would stay gathered from its forward until the end of
//! backward: nothing would say when backward has gone through it.

use crate::shard::memory::untracked;
use crate::shard::model::{ShardedParam, Visit, is_trainable, walk};
use crate::shard::tape::{self, TokenHook};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use std::fmt;
use std::sync::Arc;

/// Makes a token behind a shard that takes gradients.
pub(super) struct Leaf(Box<dyn Fn(Arc<dyn TokenHook>) -> Tensor<1>>);

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}

impl Leaf {
    /// Of the first such shard of a module.
    pub(super) fn of<M: Module>(module: &M) -> Option<Self> {
        let mut find = Find { leaf: None };
        walk(module, &mut find);
        find.leaf
    }

    pub(super) fn token(&self, hook: Arc<dyn TokenHook>) -> Tensor<1> {
        (self.0)(hook)
    }
}

struct Find {
    leaf: Option<Leaf>,
}

impl Visit for Find {
    type Held = Option<Leaf>;

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        (self.leaf.is_none() && is_trainable(param)).then(|| {
            let stored = param.base();
            let earlier = untracked(&stored.device());
            let token = move |hook| tape::token(stored.clone(), earlier.clone(), hook);
            Leaf(Box::new(token))
        })
    }

    fn sharded(&mut self, _: &str, held: Self::Held, _: ShardedParam) {
        if self.leaf.is_none() {
            self.leaf = held;
        }
    }
}
