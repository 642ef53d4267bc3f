//! The image example on folders of JPEG and PNG images.

use super::run::{Ended, Running, epochs, row};
use burn::tensor::Device;
use burn_dist::weights::Export;
use burn_dist_models::VitConfig;
use burn_dist_models::vit::hf_name;
use image::{Rgb, RgbImage};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn run(args: &str, folders: &[(&str, &Path)]) -> Ended {
    Running::start("vit_fsdp", args, folders).end()
}

/// The error with which it failed, behind lines of its log.
fn failed(ended: Ended) -> String {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: "), "{}", ended.stderr);
    last.to_owned()
}

/// An image of its own for each name; its format is that of the name's end.
fn draw(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let name = path.to_string_lossy().into_owned();
    let seed = name.bytes().rev().take(9);
    let seed = seed.fold(7_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let image = RgbImage::from_fn(70 + seed % 40, 60 + seed % 30, |x, y| {
        Rgb([x.wrapping_mul(seed), seed.wrapping_add(3 * y), x + y].map(|value| value as u8))
    });
    image.save(path).unwrap();
}

/// food101's layout: two classes with four training and two test images each.
fn food() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for class in ["pie", "waffles"] {
        for number in 0..6 {
            draw(&root.join(format!("images/{class}/{number}.jpg")));
        }
    }
    let list = |numbers: std::ops::Range<usize>| -> String {
        let lines = numbers.flat_map(|n| ["pie", "waffles"].map(|class| format!("{class}/{n}\n")));
        lines.collect()
    };
    fs::create_dir(root.join("meta")).unwrap();
    fs::write(root.join("meta/train.txt"), list(0..4)).unwrap();
    fs::write(root.join("meta/test.txt"), list(4..6)).unwrap();
    folder
}

/// Class folders alone.
fn plain(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        draw(&folder.path().join(name));
    }
    folder
}

/// Random weights in the layout of a ViT-B/16 at 224 pixels with two blocks, as the hub has it.
fn checkpoint() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = VitConfig::base_16(1000).with_blocks(2);
    let device = Device::flex();
    device.seed(3);
    let model = config.init(&device).unwrap();
    Export::new()
        .named(hf_name)
        .write(&model, folder.path())
        .unwrap();
    fs::write(folder.path().join("config.json"), config.to_hf()).unwrap();
    let preprocessor = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": 224}"#;
    fs::write(folder.path().join("preprocessor_config.json"), preprocessor).unwrap();
    folder
}

fn train_loss(output: &[String]) -> f64 {
    let (_, line) = epochs(output)[0];
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn food101_trains_from_a_vit_b_16_alike_on_one_and_two_ranks_and_with_more_workers() {
    let (data, from, out) = (food(), checkpoint(), tempfile::tempdir().unwrap());
    let folders = [("--data", data.path()), ("--from", from.path())];
    let args = "--epochs 1 --lr 1e-4";
    let one = run(&format!("{args} --ranks 1 --per-gpu-batch 4"), &folders);
    assert!(
        one.stderr
            .contains("8 training and 4 test images of 2 classes"),
        "{}",
        one.stderr
    );
    assert!(one.stderr.contains("the head is a new one") || one.stderr.contains("drawn anew"));
    let one = one.succeeded();
    assert!(row(&one, "test accuracy").contains("of 4"));
    let exported = [folders[0], folders[1], ("--export", out.path())];
    let two = run(&format!("{args} --ranks 2 --per-gpu-batch 2"), &exported).succeeded();
    let off = train_loss(&one) - train_loss(&two);
    assert!(off.abs() < 2e-3, "{one:#?} {two:#?}");
    assert_eq!(row(&one, "test accuracy"), row(&two, "test accuracy"));
    // PyTorch's spelling, too.
    let four = format!("{args} --ranks 2 --per-gpu-batch 2 --num_workers 4");
    let four = run(&four, &folders).succeeded();
    assert_eq!(epochs(&four), epochs(&two));

    let exported = |name: &str| fs::read_to_string(out.path().join(name)).unwrap();
    let json = |name: &str| serde_json::from_str::<serde_json::Value>(&exported(name)).unwrap();
    assert_eq!(json("config.json")["id2label"]["1"], "waffles");
    assert_eq!(json("preprocessor_config.json")["size"]["height"], 224);
}

#[test]
fn another_image_size_interpolates_the_position_embeddings() {
    let (data, from) = (food(), checkpoint());
    let folders = [("--data", data.path()), ("--from", from.path())];
    let args = "--epochs 1 --lr 1e-4 --ranks 2 --per-gpu-batch 2";
    let ended = run(&format!("{args} --image-size 64"), &folders);
    let line = "the position embeddings of 14 x 14 patches are interpolated to 4 x 4: images have 64 pixels, and \
                those of the weights 224";
    assert_eq!(ended.stderr.matches(line).count(), 1, "{}", ended.stderr);
    ended.succeeded();
    let message = failed(run(&format!("{args} --image-size 72"), &folders));
    assert!(
        message.contains("72 pixels cannot be cut into patches of 16"),
        "{message}"
    );
}

#[test]
fn a_share_is_split_off_where_there_is_no_test_part() {
    let names: Vec<String> = (0..10)
        .map(|n| format!("{}/{n}.png", ["cat", "dog"][n % 2]))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let data = plain(&names);
    let folders = [("--data", data.path())];
    let message = failed(run("--epochs 1", &folders));
    assert!(
        message.contains("no test part") && message.contains("--test-split 0.2"),
        "{message}"
    );
    let args = "--epochs 1 --per-gpu-batch 2 --lr 1e-4 --test_split 0.2";
    let ended = run(args, &folders);
    assert!(
        ended.stderr.contains("8 training and 2 test images"),
        "{}",
        ended.stderr
    );
    let two = ended.succeeded();
    let args = "--epochs 1 --per-gpu-batch 4 --lr 1e-4 --test-split 0.2 --ranks 1";
    let one = run(args, &folders).succeeded();
    assert_eq!(row(&one, "test accuracy"), row(&two, "test accuracy"));
    assert!((train_loss(&one) - train_loss(&two)).abs() < 2e-3);
    let food = food();
    let message = failed(run("--test-split 0.2", &[("--data", food.path())]));
    assert!(
        message.contains("share for a test part: expected none: "),
        "{message}"
    );
}

#[test]
fn a_broken_image_ends_the_run_or_is_left_out_as_told() {
    let data = food();
    let folders = [("--data", data.path())];
    let file = data.path().join("images/pie/2.jpg");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let args = "--epochs 1 --lr 1e-4 --model tiny";
    for ranks in ["--ranks 1", "--ranks 2"] {
        let message = failed(run(&format!("{args} {ranks}"), &folders));
        let found = format!("{}: expected a whole JPEG or PNG image", file.display());
        assert!(message.contains(&found), "{message}");
        assert!(message.contains("--broken-images skip"), "{message}");
    }
    let skipped = |args: &str| {
        let ended = run(args, &folders);
        let line = format!(
            "1 of 8 training images are broken and left out in every epoch: {} (a JPEG that ends before its end marker)",
            file.display()
        );
        assert_eq!(ended.stderr.matches(&line).count(), 1, "{}", ended.stderr);
        ended.succeeded()
    };
    // Seven images: the ranks' shares are uneven, and the sums exact.
    let one = skipped(&format!(
        "{args} --broken-images skip --ranks 1 --per-gpu-batch 4"
    ));
    let two = skipped(&format!(
        "{args} --broken-images skip --ranks 2 --per-gpu-batch 2"
    ));
    assert!(
        (train_loss(&one) - train_loss(&two)).abs() < 2e-3,
        "{one:#?} {two:#?}"
    );
    assert_eq!(row(&one, "test accuracy"), row(&two, "test accuracy"));
}

#[test]
fn folders_that_cannot_be_are_one_sentence() {
    let data = food();
    fs::create_dir(data.path().join("images/empty")).unwrap();
    let list = data.path().join("meta/train.txt");
    let more = fs::read_to_string(&list).unwrap() + "empty/1\n";
    fs::write(&list, more).unwrap();
    let message = failed(run("", &[("--data", data.path())]));
    assert!(message.contains("none of empty"), "{message}");
    for (names, expected) in [
        (&["train/a/1.png", "test/a/1.png"][..], "a single class, a"),
        (
            &[
                "train/a/1.png",
                "train/b/1.png",
                "test/a/1.png",
                "test/c/1.png",
            ],
            "found none of b, and c instead",
        ),
        (&["a/1.png", "b/1.png"], "two images or more"),
    ] {
        let data = plain(names);
        let args = match names.len() {
            2 if names[0].starts_with("a/") => "--test-split 0.5",
            _ => "",
        };
        let message = failed(run(args, &[("--data", data.path())]));
        assert!(message.contains(expected), "{message}");
    }
    let data = plain(&[
        "train/a/1.png",
        "train/b/1.png",
        "test/a/1.png",
        "test/b/1.png",
    ]);
    fs::remove_file(data.path().join("test/b/1.png")).unwrap();
    let message = failed(run("", &[("--data", data.path())]));
    assert!(
        message.contains("test/b: expected images of the class"),
        "{message}"
    );
}
