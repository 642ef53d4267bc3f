//! The pages themselves: whole, self-contained, and with a command to every figure.

use crate::generated::{finish_all, matrix};
use experiments::{report, results};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes the report of a matrix; where `EXPERIMENTS_KEEP` names a folder it stays there, to be looked at.
fn written(arguments: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("EXPERIMENTS_KEEP").map(|keep| Path::new(&keep).join(name));
    let out = kept.unwrap_or_else(|| folder.path().join(name));
    let matrix = matrix(arguments);
    finish_all(&out, &matrix);
    let runs = results::read(&out, &matrix).unwrap();
    report::write(&out, &matrix, &runs).unwrap();
    (folder, out)
}

#[test]
fn the_page_needs_nothing_else() {
    for (arguments, name) in [
        ("--study a", "a"),
        ("--study b", "b"),
        (
            "--strategies ddp,fsdp,zero2 --setups 1_1,1_2,1_4,2_2 --batches 8,32 --models vit-tiny,bert-tiny --epochs 4",
            "matrix",
        ),
    ] {
        let (_folder, out) = written(arguments, name);
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        for outside in [
            "<script",
            "<link",
            "@import",
            "url(",
            "src=\"http",
            "href=\"http",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        // The only addresses are names of SVG.
        for (at, _) in page.match_indices("http") {
            let rest = &page[at..at + 30.min(page.len() - at)];
            assert!(rest.starts_with("http://www.w3.org/2000/svg"), "{rest}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
        // Every figure says which commands made it.
        let figures = page.matches("<figure>").count();
        assert!(figures >= 5, "{figures}");
        let with_commands = page.split("<figure>").skip(1).filter(|figure| {
            let figure = &figure[..figure.find("</figure>").unwrap()];
            figure.contains("--log-to") && figure.contains("_fsdp ") && figure.contains("<svg")
        });
        assert_eq!(with_commands.count(), figures);
        // Links within the page lead somewhere.
        for (at, _) in page.match_indices("href=\"#") {
            let name = &page[at + 7..];
            let name = &name[..name.find('"').unwrap()];
            assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
        }
    }
}

#[test]
fn every_picture_of_the_markdown_page_is_there() {
    let (_folder, out) = written("--study b --experiment 1", "b1");
    let page = fs::read_to_string(out.join("report.md")).unwrap();
    let mut count = 0;
    for part in page.split("](").skip(1) {
        let name = &part[..part.find(')').unwrap()];
        let svg = fs::read_to_string(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
            "{name}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
        count += 1;
    }
    assert_eq!(count, fs::read_dir(out.join("figures")).unwrap().count());
}
