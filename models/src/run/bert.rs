//! The command line of the text example: its models, its texts and its vocabulary.

use super::values::probability;
use super::{Classes, Pretrained, RunArgs, named, shared_tokenizer};
use crate::BertConfig;
use crate::bert::Family;
use crate::data::Relabelled;
use crate::data::text::{AgNews, Newswire, Text, TextBatch, TextBatcher, Tokenized, Tokenizer};
use burn_dist::data::{Dataset, Loader};
use burn_dist::{Error, Result, World};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;

/// The arguments of the text example.
#[derive(Debug, Clone, Parser, Serialize)]
#[command(
    version,
    about = "Train a BERT to tell the class of a text, sharded over several ranks",
    mut_arg("epochs", |arg| arg.default_value("6")),
    mut_arg("lr", |arg| arg.default_value("1e-3"))
)]
pub struct BertArgs {
    /// The arguments that all examples share.
    #[command(flatten)]
    pub run: RunArgs,

    /// The model.
    #[arg(long, value_enum, default_value_t = BertSize::Tiny)]
    pub model: BertSize,

    /// The folder of AG News's CSV files; without it, generated news texts that need no files.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// A folder with tokenizer.json or vocab.txt; without it, the tokenizer beside the weights, or one
    /// trained on the training texts.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,

    /// Whether a vocab.txt is of lower case; by default as in tokenizer_config.json, or else as its
    /// pieces are.
    #[arg(long, value_name = "BOOL")]
    pub lower_case: Option<bool>,

    /// The most word pieces of a trained vocabulary.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4096,
        conflicts_with = "tokenizer"
    )]
    pub vocab: usize,

    /// The most tokens of a text; longer ones are truncated.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_length: usize,

    /// The dropout rate in training, of all layers.
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = probability)]
    pub dropout: f64,
}

/// The models to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum BertSize {
    /// 128 wide, 2 blocks: learns in a minute on a laptop.
    Tiny,
    /// 256 wide, 4 blocks.
    Mini,
    /// 512 wide, 4 blocks.
    Small,
    /// BERT-base.
    Base,
    /// BERT-large.
    Large,
    /// DistilBERT: half the blocks of BERT-base, and no types.
    Distil,
}

/// One rank's share of the data of a text classifier.
#[derive(Debug)]
pub struct Texts {
    /// The training set.
    pub train: Loader<TextBatch>,
    /// What epochs are scored on, if not on the test set.
    pub validation: Option<Loader<TextBatch>>,
    /// The test set.
    pub test: Loader<TextBatch>,
    /// The vocabulary, the same on every rank.
    pub tokenizer: Tokenizer,
    /// The classes' names, by label.
    pub classes: Vec<String>,
}

impl BertArgs {
    /// The name of the model, in records and folders.
    pub fn name(&self) -> String {
        named("bert", &self.model)
    }

    /// The model, for texts that `tokenizer` has encoded; a pretrained one keeps its sizes.
    ///
    /// # Errors
    /// [`Error::File`] if the weights are not for this model; [`Error::Config`] if its vocabulary or its positions
    /// are too few for the texts.
    pub fn config(
        &self,
        tokenizer: &Tokenizer,
        pretrained: Option<&Pretrained>,
    ) -> Result<BertConfig> {
        let config = match pretrained {
            None => self.sizes().with_vocab(tokenizer.size()),
            Some(pretrained) => pretrained.config(BertConfig::from_hf)?.0,
        };
        // DistilBERT has no token types.
        let types = match config.family {
            Family::Bert => config.types,
            Family::DistilBert => 2,
        };
        let places = [
            ("the vocabulary", config.vocab, tokenizer.size()),
            ("--max-length", config.positions, self.max_length),
            (
                "types of tokens (one for titles, one for descriptions; type_vocab_size in config.json)",
                types,
                2,
            ),
        ];
        if let Some((what, most, found)) =
            places.into_iter().find(|(_, most, wanted)| wanted > most)
        {
            return Err(Error::config(
                what,
                format!("at most {most}, which the model given by --from has places for"),
                found,
            ));
        }
        Ok(config
            .with_dropout(self.dropout)
            .with_attention_dropout(self.dropout)
            .with_head_dropout(self.dropout))
    }

    fn sizes(&self) -> BertConfig {
        match self.model {
            BertSize::Tiny => BertConfig::tiny(),
            BertSize::Mini => BertConfig::mini(),
            BertSize::Small => BertConfig::small(),
            BertSize::Base => BertConfig::base(),
            BertSize::Large => BertConfig::large(),
            BertSize::Distil => BertConfig::distil(),
        }
    }

    /// This rank's share of the texts, and the vocabulary that all ranks share. Collective.
    ///
    /// A vocabulary that is trained on the texts is written to the folder of the saves, and a run that resumes from
    /// there reads it.
    ///
    /// # Errors
    /// [`Error::File`] if files are missing or malformed; [`Error::Config`] if a number on the command line is out
    /// of range; what a collective returns.
    pub fn data(&self, world: &World, pretrained: Option<&Pretrained>) -> Result<Texts> {
        match &self.data {
            Some(folder) => {
                let (train, test) = AgNews::open(folder)?;
                let classes = train.classes().to_vec();
                self.texts(world, train, test, classes, pretrained)
            }
            None => {
                self.run.say_made_up(world, "texts");
                let classes = Newswire::classes().iter().map(ToString::to_string);
                let (train, test) = (Newswire::train(0, 2048), Newswire::test(0, 512));
                self.texts(world, train, test, classes.collect(), pretrained)
            }
        }
    }

    fn texts<D: Dataset<Item = Text> + Hash + 'static>(
        &self,
        world: &World,
        train: D,
        test: D,
        classes: Vec<String>,
        pretrained: Option<&Pretrained>,
    ) -> Result<Texts> {
        world.agree_hash("the training data", &train)?;
        world.agree_hash("the test data", &test)?;
        let theirs = pretrained.map(Pretrained::classes).transpose()?.flatten();
        let classes = Classes::new(world, &classes, theirs.as_deref());
        let relabelled = |texts| Relabelled::new(texts, classes.numbers.clone());
        let (train, test) = (relabelled(Arc::new(train)), relabelled(Arc::new(test)));
        let (train, validation, test) = self.run.divide(train, test)?;
        let tokenizer = self.vocabulary(world, &train, pretrained)?;
        let batcher = TextBatcher::new(&tokenizer, &world.device());
        let (tokens, again) = (tokenizer.clone(), batcher.clone());
        let scored = |set| {
            let batcher = again.clone();
            let set = Tokenized::new(set, tokens.clone());
            self.run
                .testing(world, set, move |texts, info| batcher.collate(&texts, info))
        };
        let train = Tokenized::new(train, tokenizer.clone());
        Ok(Texts {
            validation: validation.map(&scored).transpose()?,
            test: scored(test)?,
            train: self.run.training(world, train, move |texts, info| {
                batcher.collate(&texts, info)
            })?,
            tokenizer,
            classes: classes.names,
        })
    }

    /// The vocabulary of the resumed run, or that of a folder, or a new one.
    fn vocabulary(
        &self,
        world: &World,
        train: &impl Dataset<Item = Text>,
        pretrained: Option<&Pretrained>,
    ) -> Result<Tokenizer> {
        let longest = BertConfig::new().positions;
        if self.max_length > longest {
            return Err(Error::config(
                "--max-length",
                format!("at most {longest} tokens, which a BERT has places for"),
                self.max_length,
            ));
        }
        if let (Some(lower_case), None, None) = (self.lower_case, &self.tokenizer, pretrained) {
            return Err(Error::config(
                "--lower-case",
                "a vocab.txt to read, from --tokenizer or --from: one that is made is in lower case",
                lower_case,
            ));
        }
        let resumed = self.run.resumes(world)?;
        let tokenizer = shared_tokenizer(world, || {
            let kept = self.run.save_folder();
            if let Some(folder) = kept.filter(|_| resumed.is_some()) {
                return Tokenizer::open(folder);
            }
            // A pretrained model needs the vocabulary in its folder.
            let beside = pretrained.map(Pretrained::folder);
            let tokenizer = match self.tokenizer.as_deref().or(beside) {
                Some(folder) => Tokenizer::open_as(folder, self.lower_case)?,
                None if self.run.save.is_some() && kept.is_none() => {
                    return Err(Error::user(
                        "a vocabulary that this run would train needs a folder to be kept in: give --save \
                         a folder, or --tokenizer DIR with an existing one",
                    ));
                }
                None => Tokenizer::train(train, self.vocab)?,
            };
            if let Some(folder) = kept {
                tokenizer.save(folder)?;
            }
            Ok(tokenizer)
        })?;
        tokenizer.with_max_length(self.max_length)
    }
}
