//! A report as one HTML file that needs nothing else.

use super::chart::STRUCTURE;
use super::document::{Block, Command, Document, Figure, Figures, Section, Table, Tone};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// What is no style of a chart.
const STYLE: &str = include_str!("style.css");

/// The page.
pub(super) fn page(document: &Document) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (document.title) }
                style { (PreEscaped(STYLE)) (PreEscaped(chart_style())) }
            }
            body {
                main {
                    header {
                        h1 { (document.title) }
                        @for line in &document.about { p.about { (line) } }
                        @if !document.cards.is_empty() {
                            div.cards {
                                @for card in &document.cards {
                                    div.card { b { (card.number) } span { (card.what) } }
                                }
                            }
                        }
                        nav {
                            @for section in &document.sections {
                                a href={ "#" (section.id) } { (section.title) }
                            }
                        }
                    }
                    @for section in &document.sections { (of_section(section)) }
                }
            }
        }
    };
    page.into_string()
}

/// Colours of paper, text and grid follow the page's.
fn chart_style() -> String {
    let rule = |(color, name): &(&str, &str)| {
        format!(
            ".follows [fill=\"{color}\"]{{fill:var({name})}}.follows [stroke=\"{color}\"]{{stroke:var({name})}}\n"
        )
    };
    STRUCTURE.iter().map(rule).collect()
}

fn of_section(section: &Section) -> Markup {
    html! {
        section id=(section.id) {
            h2 { (section.title) }
            @for block in &section.blocks {
                @match block {
                    Block::Text(text) => p { (text) },
                    Block::Table(table) => (of_table(table)),
                    Block::Figures(figures) => (of_figures(figures)),
                    Block::Commands(commands) => (of_commands(commands)),
                }
            }
        }
    }
}

fn of_table(table: &Table) -> Markup {
    let tone = |tone: Tone| match tone {
        Tone::Plain => "",
        Tone::Good => "good",
        Tone::Bad => "bad",
        Tone::Muted => "muted",
    };
    html! {
        div.scroll {
            table {
                @if !table.caption.is_empty() { caption { (table.caption) } }
                thead {
                    tr {
                        @for column in &table.columns {
                            th.number[column.is_number] { (column.title) }
                        }
                    }
                }
                tbody {
                    @for row in &table.rows {
                        tr.published[row.is_published] {
                            @for (cell, column) in row.cells.iter().zip(&table.columns) {
                                td class={ (tone(cell.tone)) (if column.is_number { " number" } else { "" }) } {
                                    @match cell.bar {
                                        None => (cell.text),
                                        Some(share) => {
                                            span.bar style=(format!("--share:{:.1}%", 100.0 * share)) { (cell.text) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn of_figures(figures: &Figures) -> Markup {
    html! {
        figure {
            div.side-by-side[figures.figures.len() > 1] {
                @for figure in &figures.figures { (of_figure(figure)) }
            }
            figcaption { (figures.caption) }
            @if !figures.commands.is_empty() {
                details {
                    summary { "The commands that made it" }
                    (of_commands(&figures.commands))
                }
            }
        }
    }
}

fn of_figure(figure: &Figure) -> Markup {
    // A picture from elsewhere may have styles of its own, which must not reach the page.
    let class = if figure.follows_page {
        "chart follows"
    } else {
        "chart picture"
    };
    html! {
        div class=(class) role="img" aria-label=(figure.alt) {
            @if figure.follows_page {
                (PreEscaped(&figure.svg))
            } @else {
                img alt=(figure.alt) src=(data_url(&figure.svg));
            }
        }
    }
}

fn of_commands(commands: &[Command]) -> Markup {
    html! {
        pre {
            @for command in commands {
                span.run { "# " (command.run) "\n" }
                @for line in &command.lines { (line) "\n" }
            }
        }
    }
}

/// A picture as an address that holds it.
fn data_url(svg: &str) -> String {
    let mut url = String::from("data:image/svg+xml,");
    for byte in svg.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'/'
            | b' '
            | b'='
            | b':'
            | b',' => {
                url.push(char::from(byte));
            }
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}
