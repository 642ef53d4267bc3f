//! Files that use each other in a circle, as far as that is known, each with the reason.
//!
//! No other circle may be made. One that has been opened, or has become smaller, must be taken off.

use crate::graph::Circle;

pub(crate) const CIRCLES: &[Circle] = &[
    Circle {
        files: &[
            "burn-dist/src/comm/mesh/direct.rs",
            "burn-dist/src/comm/mesh/mod.rs",
            "burn-dist/src/comm/mesh/relay.rs",
            "burn-dist/src/comm/mesh/round.rs",
        ],
        why: "a mesh and its round are one noun: a round is a collective under way on the links of a mesh",
    },
    Circle {
        files: &[
            "models/src/bert/block.rs",
            "models/src/bert/classifier.rs",
            "models/src/bert/config.rs",
            "models/src/bert/embeddings.rs",
            "models/src/bert/masked_lm.rs",
            "models/src/bert/mod.rs",
        ],
        why: "to be opened: a configuration makes the models that hold it",
    },
    Circle {
        files: &["models/src/data/augment.rs", "models/src/data/image.rs"],
        why: "to be opened: `SIDE`",
    },
    Circle {
        files: &[
            "models/src/data/text/encoded.rs",
            "models/src/data/text/folder.rs",
            "models/src/data/text/tokenizer.rs",
            "models/src/data/text/training.rs",
        ],
        why: "to be opened: a tokenizer makes, reads and trains what needs it",
    },
    Circle {
        files: &["models/src/run/args.rs", "models/src/run/course.rs"],
        why: "to be opened: arguments start a course that holds them",
    },
    Circle {
        files: &[
            "models/src/vit/config.rs",
            "models/src/vit/embeddings.rs",
            "models/src/vit/mod.rs",
        ],
        why: "to be opened: a configuration makes the models that hold it",
    },
];
