//! Tests of folders of images.

use super::*;
use burn::tensor::Device;
use burn_dist::Result;
use burn_dist::data::Dataset;
use burn_dist::data::{Batch, Loader};
use image::{Rgb, RgbImage};
use std::fmt;
use std::path::Path;
use tempfile::TempDir;

use crate::data::{PictureBatcher, Transform};
use crate::hf::Preprocessor;

/// Writes an image of one colour; its format is that of the name's end.
fn draw(path: &Path, colour: [u8; 3]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = RgbImage::from_fn(20, 14, |x, y| {
        Rgb(colour.map(|c| c.wrapping_add((x * 3 + y) as u8)))
    });
    image.save(path).unwrap();
}

/// A folder with images of these names.
fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in names.iter().enumerate() {
        draw(&folder.path().join(name), [10 * number as u8, 50, 90]);
    }
    folder
}

fn paths(part: &ImageFolder) -> Vec<&str> {
    part.images
        .iter()
        .map(|image| image.path.as_str())
        .collect()
}

/// The message of an error, with the folder as DIR.
fn message<T: fmt::Debug>(folder: &Path, result: Result<T>) -> String {
    let message = result.unwrap_err().to_string();
    message.replace(&folder.display().to_string(), "DIR")
}

#[test]
fn classes_and_files_are_sorted_and_found_at_any_depth() {
    let folder = folder(&["dog/b.png", "dog/a.JPG", "cat/z.jpeg", "cat/deeper/a.png"]);
    let root = folder.path();
    std::fs::write(root.join("notes.txt"), "beside the classes").unwrap();
    std::fs::write(root.join("dog/Thumbs.db"), "no image").unwrap();
    std::fs::create_dir(root.join(".hidden")).unwrap();
    // By content and not by name.
    std::fs::rename(root.join("cat/z.jpeg"), root.join("cat/z.png")).unwrap();
    let all = ImageFolder::open(root).unwrap();
    assert_eq!(all.classes(), ["cat", "dog"]);
    let expected = ["cat/z.png", "cat/deeper/a.png", "dog/a.JPG", "dog/b.png"];
    assert_eq!(paths(&all), expected);
    assert_eq!(all.labels().collect::<Vec<_>>(), [0, 0, 1, 1]);
    let image = all.get(0).unwrap();
    assert_eq!((image.width, image.height, image.label), (20, 14, 0));
    let left =
        "1 file(s) that do not end in .jpg, .jpeg or .png are left out, such as dog/Thumbs.db";
    assert_eq!(all.left_out().unwrap(), left);
    assert_eq!(
        all.get(4).unwrap_err().to_string(),
        "image index: expected less than the 4 images there are, found 4"
    );
}

#[test]
fn the_parts_of_each_layout_are_found() {
    let plain = [
        "train/a/1.png",
        "train/b/2.png",
        "val/a/3.png",
        "val/b/4.png",
    ];
    let plain = folder(&plain);
    let (train, test) = ImageFolder::parts(plain.path(), None).unwrap();
    assert_eq!(
        (paths(&train), paths(&test)),
        (vec!["a/1.png", "b/2.png"], vec!["a/3.png", "b/4.png"])
    );
    assert_eq!(ImageFolder::class_names(plain.path()).unwrap(), ["a", "b"]);
    // Where there is `test`, it is taken.
    draw(&plain.path().join("test/a/5.png"), [1; 3]);
    draw(&plain.path().join("test/b/6.png"), [1; 3]);
    let (_, test) = ImageFolder::parts(plain.path(), None).unwrap();
    assert_eq!(paths(&test), ["a/5.png", "b/6.png"]);

    let food = food();
    let root = food.path().join("food-101");
    for given in [food.path(), &root] {
        let (train, test) = ImageFolder::parts(given, None).unwrap();
        assert_eq!(train.classes(), ["pie", "waffles"]);
        assert_eq!(paths(&train), ["pie/10.jpg", "waffles/7.jpg"]);
        assert_eq!(paths(&test), ["pie/9.jpg", "waffles/8.jpg"]);
        assert_eq!(ImageFolder::class_names(given).unwrap(), ["pie", "waffles"]);
    }
}

/// food101's layout, as its archive has it.
fn food() -> TempDir {
    let food = folder(&[
        "food-101/images/waffles/7.jpg",
        "food-101/images/waffles/8.jpg",
        "food-101/images/pie/9.jpg",
        "food-101/images/pie/10.jpg",
    ]);
    let meta = food.path().join("food-101/meta");
    std::fs::create_dir(&meta).unwrap();
    std::fs::write(meta.join("train.txt"), "waffles/7\npie/10\n").unwrap();
    std::fs::write(meta.join("test.txt"), "pie/9\nwaffles/8\n").unwrap();
    food
}

#[test]
fn a_list_that_does_not_fit_is_an_error_that_names_the_line() {
    let food = food();
    let root = food.path().join("food-101");
    let (train, test) = (root.join("meta/train.txt"), root.join("meta/test.txt"));
    let error = || message(&root, ImageFolder::parts(&root, None));
    std::fs::write(&test, "pie/9\n\npie/11\nwaffles/8\n").unwrap();
    assert_eq!(
        error(),
        "DIR/meta/test.txt: expected a line 3 whose image is in DIR/images, \
         found pie/11, of which there is no .jpg, .jpeg or .png"
    );
    for wrong in [
        "pie",
        "pie/../../secret",
        "/etc/passwd",
        "pie/a/b",
        "../pie/9",
    ] {
        std::fs::write(&test, format!("pie/9\n{wrong}\n")).unwrap();
        let found = error();
        let expected = format!("a line class/name for each, found {wrong:?} in line 2");
        assert!(found.contains(&expected), "{found}");
    }
    std::fs::write(&test, "pie/9\ncake/1\n").unwrap();
    assert_eq!(
        error(),
        "DIR/meta/test.txt: expected the 2 classes that training has, \
         found none of waffles, and cake instead"
    );
    std::fs::write(&test, "\n").unwrap();
    assert!(error().ends_with("found no line"), "{}", error());
    std::fs::remove_file(&train).unwrap();
    assert!(
        error().starts_with("DIR/meta/train.txt: expected a list of images"),
        "{}",
        error()
    );
}

#[test]
fn folders_without_classes_to_tell_apart_are_errors() {
    let none = tempfile::tempdir().unwrap();
    let open = |folder: &TempDir| message(folder.path(), ImageFolder::open(folder.path()));
    let expected = "DIR: expected a folder of images for each of two or more classes, found ";
    assert_eq!(open(&none), format!("{expected}no folder, and 0 file(s)"));
    let flat = folder(&["1.png", "2.png"]);
    assert_eq!(open(&flat), format!("{expected}no folder, and 2 file(s)"));
    let one = folder(&["a/1.png"]);
    assert_eq!(open(&one), format!("{expected}a single class, a"));
    std::fs::create_dir(one.path().join("b")).unwrap();
    let empty = "DIR/b: expected images of the class (.jpg, .jpeg, .png): put them there, or remove the folder";
    assert_eq!(open(&one), format!("{empty}, found none"));
    std::fs::write(one.path().join("b/1.webp"), "RIFF").unwrap();
    let others = "1 file(s) that do not end in .jpg, .jpeg or .png are left out, such as b/1.webp";
    assert_eq!(open(&one), format!("{empty}, found none: {others}"));
    let nowhere = none.path().join("nowhere");
    let found = message(none.path(), ImageFolder::open(&nowhere));
    assert_eq!(
        found,
        "DIR/nowhere: expected a folder of images that can be read, found nothing"
    );
}

#[test]
fn classes_that_train_and_test_do_not_share_are_named() {
    let names = [
        "train/a/1.png",
        "train/b/2.png",
        "test/b/3.png",
        "test/c/4.png",
    ];
    let both = folder(&names);
    assert_eq!(
        message(both.path(), ImageFolder::parts(both.path(), None)),
        "DIR/test: expected the 2 classes that training has, found none of a, and c instead"
    );
    let more = folder(&[
        "train/a/1.png",
        "train/b/2.png",
        "test/a/1.png",
        "test/b/3.png",
        "test/c/4.png",
    ]);
    assert_eq!(
        message(more.path(), ImageFolder::parts(more.path(), None)),
        "DIR/test: expected the 2 classes that training has, found also c"
    );
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_above_is_an_error_and_no_loop() {
    let folder = folder(&["a/1.png", "b/2.png"]);
    for name in ["up", "also"] {
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a").join(name)).unwrap();
    }
    let found = message(folder.path(), ImageFolder::open(folder.path()));
    assert!(found.contains("is there a link to one above?"), "{found}");
}

#[test]
fn a_test_part_is_split_off_class_by_class() {
    let names: Vec<String> = (0..12)
        .map(|n| format!("{}/{n}.png", if n < 10 { "a" } else { "b" }))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = folder(&names);
    let parts = |share, seed| {
        ImageFolder::parts(all.path(), Some(TestShare::new(share, seed).unwrap())).unwrap()
    };
    let (train, test) = parts(0.2, 1);
    // Two of ten, and of two at least one.
    assert_eq!(test.labels().collect::<Vec<_>>(), [0, 0, 1]);
    let mut together = [paths(&train), paths(&test)].concat();
    together.sort_unstable();
    let mut expected = names.clone();
    expected.sort_unstable();
    assert_eq!(together, expected);
    assert_eq!(paths(&parts(0.2, 1).1), paths(&test));
    assert!((2..12).any(|seed| paths(&parts(0.2, seed).1) != paths(&test)));
    assert_eq!(parts(0.99, 1).0.labels().collect::<Vec<_>>(), [0, 1]);

    let no_share = message(all.path(), ImageFolder::parts(all.path(), None));
    assert!(no_share.ends_with("with --test-split 0.2"), "{no_share}");
    let split = Some(TestShare::new(0.2, 1).unwrap());
    let both = folder(&[
        "train/a/1.png",
        "train/b/2.png",
        "test/a/3.png",
        "test/b/4.png",
    ]);
    assert_eq!(
        message(both.path(), ImageFolder::parts(both.path(), split)),
        "share for a test part: expected none: DIR/test is the test part, found 0.2"
    );
    let single = folder(&["a/1.png", "a/2.png", "b/1.png"]);
    assert_eq!(
        message(single.path(), ImageFolder::parts(single.path(), split)),
        "DIR/b: expected two images or more, of which one is for the test, found 1"
    );
    assert!(TestShare::new(f64::NAN, 0).is_err());
}

#[test]
fn broken_images_are_found_named_and_left_out() {
    let folder = folder(&["a/1.png", "a/2.jpg", "a/3.png", "b/4.png", "b/5.png"]);
    let root = folder.path();
    let whole = std::fs::read(root.join("a/2.jpg")).unwrap();
    std::fs::write(root.join("a/2.jpg"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(root.join("b/5.png"), "no image").unwrap();
    let all = ImageFolder::open(root).unwrap();
    assert_eq!(
        message(root, all.get(1)),
        "DIR/a/2.jpg: expected a whole JPEG or PNG image, found a JPEG that ends before its end marker: fetch it \
         again, remove it, or leave broken images out (--broken-images skip)"
    );
    let indices: Vec<usize> = (0..5).collect();
    for workers in [1, 2, 9] {
        let found = all.broken(&indices, workers).unwrap();
        let messages = found
            .iter()
            .map(|image| image.message.replace(&root.display().to_string(), "DIR"));
        let messages: Vec<_> = messages.collect();
        assert_eq!(
            messages,
            [
                "DIR/a/2.jpg (a JPEG that ends before its end marker)",
                "DIR/b/5.png (neither)"
            ]
        );
        assert_eq!(
            found.iter().map(|image| image.index).collect::<Vec<_>>(),
            [1, 4]
        );
    }
    assert!(all.broken(&[], 3).unwrap().is_empty());
    let rest = all.clone().without(&[1, 4].into()).unwrap();
    assert_eq!(paths(&rest), ["a/1.png", "a/3.png", "b/4.png"]);
    assert_eq!(
        message(root, all.without(&[3, 4].into())),
        "DIR/b: expected an image of the class that can be decoded, found broken ones alone"
    );
}

#[test]
fn one_worker_and_four_make_the_same_batches_each_epoch_another() {
    let names: Vec<String> = (0..22).map(|n| format!("{}/{n}.png", n % 2)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let folder = folder(&names);
    let preprocessor = Preprocessor::imagenet(8);
    let batches = |workers, epoch| -> Vec<Vec<f32>> {
        let transform = Transform::training(preprocessor.clone(), 8, 3);
        let all = ImageFolder::open(folder.path())
            .unwrap()
            .transformed(transform);
        let batcher = PictureBatcher::new(&Device::flex(), &preprocessor);
        let collate = move |items: Vec<_>, info: &_| batcher.collate(&items, info);
        let loader = Loader::replicated(all, Batch::per_rank(4), collate).unwrap();
        let loader = loader.shuffled(1).with_workers(workers).unwrap();
        let images = |batch: Result<crate::data::ImageBatch>| {
            batch.unwrap().images.into_data().try_into_vec().unwrap()
        };
        loader.epoch(epoch).unwrap().map(images).collect()
    };
    let one = batches(1, 2);
    assert_eq!(one.len(), 6);
    assert_eq!(batches(4, 2), one);
    assert_ne!(batches(1, 3), one);
}
