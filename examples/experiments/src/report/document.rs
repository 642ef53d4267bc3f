//! A report before it is a page: sections of text, tables and figures.

/// The whole report.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) title: String,
    /// Lines under the title.
    pub(super) about: Vec<String>,
    /// The most important numbers.
    pub(super) cards: Vec<Card>,
    pub(super) sections: Vec<Section>,
}

/// A number with what it is.
#[derive(Debug, Clone)]
pub(super) struct Card {
    pub(super) number: String,
    pub(super) what: String,
}

/// A part of a report under a heading.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// Its name in links.
    pub(super) id: &'static str,
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone)]
pub(super) enum Block {
    Text(String),
    Table(Table),
    /// Figures side by side, and the commands that made what they show.
    Figures(Figures),
    /// Lines to copy into a shell.
    Commands(Vec<Command>),
}

/// The commands of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) run: String,
    /// One for each node.
    pub(super) lines: Vec<String>,
}

/// Figures with one caption.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) figures: Vec<Figure>,
    pub(super) caption: String,
    pub(super) commands: Vec<Command>,
}

/// A picture.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// Of its file, without the ending.
    pub(super) name: String,
    /// What it shows, for who cannot see it.
    pub(super) alt: String,
    pub(super) svg: String,
    /// Whether its colours follow the page's; a picture from elsewhere stays on white.
    pub(super) follows_page: bool,
}

/// A table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

/// The head of a column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) title: String,
    /// Numbers stand at the right.
    pub(super) is_number: bool,
}

/// A row of cells.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    /// Whether others have published it.
    pub(super) is_published: bool,
}

/// A cell.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
    /// A bar behind it, of this share of its width.
    pub(super) bar: Option<f64>,
}

/// What a cell says beside its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Muted,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Cell {
    pub(super) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    pub(super) fn bar(mut self, share: f64) -> Self {
        self.bar = Some(share.clamp(0.0, 1.0));
        self
    }

    /// What there is, or a dash.
    pub(super) fn maybe(text: Option<String>) -> Self {
        text.map_or_else(|| Self::from("–").tone(Tone::Muted), Self::from)
    }
}

impl Table {
    /// A table without rows; a title that begins with `#` is of numbers.
    pub(super) fn new(caption: &str, columns: &[&str]) -> Self {
        let column = |title: &&str| Column {
            title: title.trim_start_matches('#').into(),
            is_number: title.starts_with('#'),
        };
        Self {
            caption: caption.into(),
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(Row {
            cells,
            is_published: false,
        });
    }

    pub(super) fn published(&mut self, cells: Vec<Cell>) {
        self.rows.push(Row {
            cells,
            is_published: true,
        });
    }
}

impl Document {
    /// All figures, in their order.
    pub(super) fn figures(&self) -> impl Iterator<Item = &Figure> {
        let blocks = self.sections.iter().flat_map(|section| &section.blocks);
        blocks.flat_map(|block| match block {
            Block::Figures(figures) => &figures.figures[..],
            _ => &[],
        })
    }
}
