//! Arrays of tables, in either way of writing them.

use toml_edit::{Array, ArrayOfTables, Item, Table, TableLike, Value};

/// `[[name]]` or `name = [{ ... }]`, and what there is of it.
pub(super) enum List<'a> {
    Tables(&'a mut ArrayOfTables),
    Inline(&'a mut Array),
}

/// The list under a key, which is made if there is none. `None` where something
/// else is there.
pub(super) fn list<'a>(table: &'a mut dyn TableLike, key: &str, inline: bool) -> Option<List<'a>> {
    if table.get(key).is_none_or(Item::is_none) {
        let empty = match inline {
            true => Item::Value(Array::new().into()),
            false => Item::ArrayOfTables(ArrayOfTables::new()),
        };
        table.insert(key, empty);
    }
    match table.get_mut(key)? {
        Item::ArrayOfTables(tables) => Some(List::Tables(tables)),
        Item::Value(Value::Array(array)) => Some(List::Inline(array)),
        _ => None,
    }
}

impl List<'_> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            List::Tables(tables) => tables.len(),
            List::Inline(array) => array.len(),
        }
    }

    /// One of them, to be changed.
    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut dyn TableLike> {
        match self {
            List::Tables(tables) => tables.get_mut(number).map(|table| table as &mut dyn TableLike),
            List::Inline(array) => {
                let table = array.get_mut(number)?.as_inline_table_mut()?;
                Some(table as &mut dyn TableLike)
            }
        }
    }

    /// Whether what is within one has to be written inline.
    pub(super) fn is_inline(&self) -> bool {
        matches!(self, List::Inline(_))
    }

    /// Keeps those of these numbers, in this order, with new ones among them.
    pub(super) fn arrange(&mut self, order: Vec<Entry>) {
        match self {
            List::Tables(tables) => {
                let mut old: Vec<Option<Table>> = std::mem::take(*tables).into_iter().map(Some).collect();
                // New ones have no place among all tables of the file, and come behind the one
                // before them. Where that does for the order the others keep theirs.
                let places = order.iter().map(|entry| match entry {
                    Entry::Old(number) => *number,
                    Entry::New(_) => usize::MAX,
                });
                let moved = !places.is_sorted();
                for entry in order {
                    let mut table = match entry {
                        Entry::Old(number) => match old.get_mut(number).and_then(Option::take) {
                            Some(table) => table,
                            None => continue,
                        },
                        Entry::New(table) => table,
                    };
                    if moved {
                        forget_places(&mut table);
                    }
                    tables.push(table);
                }
            }
            List::Inline(array) => {
                let mut old: Vec<Option<Value>> = std::mem::take(*array).into_iter().map(Some).collect();
                for entry in order {
                    let value = match entry {
                        Entry::Old(number) => old.get_mut(number).and_then(Option::take),
                        Entry::New(table) => Some(Value::InlineTable(table.into_inline_table())),
                    };
                    if let Some(value) = value {
                        array.push_formatted(value);
                    }
                }
                array.fmt();
            }
        }
    }
}

/// One of a list as it is to be.
pub(super) enum Entry {
    /// The one of this number
    Old(usize),
    /// Another
    New(Table),
}

/// Tables are written where they were read, unless they have moved.
fn forget_places(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(inner) => forget_places(inner),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(forget_places),
            _ => {}
        }
    }
}
