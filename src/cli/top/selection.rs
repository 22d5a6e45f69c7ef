//! [`Selection`]: the selected row of a table.

/// The selected row, identified by name, so that it stays selected when rows come and go.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Its name.
    pub name: Option<String>,
    /// Its last row number.
    pub row: usize,
    /// True once a row was selected; after that only keys select.
    begun: bool,
}

impl Selection {
    /// Finds its row among these names. If it is gone, nothing is selected, rather than its neighbour.
    pub fn follow(&mut self, names: &[String]) {
        match self.name.as_ref().map(|name| names.iter().position(|other| other == name)) {
            Some(Some(row)) => self.row = row,
            Some(None) => self.name = None,
            None if !self.begun => {
                self.name = names.first().cloned();
                self.begun = self.name.is_some();
            }
            None => {}
        }
    }

    /// Moves by so many rows.
    pub fn step(&mut self, by: isize, names: &[String]) {
        // If the selected row is gone, the row in its place is next.
        let by = if self.name.is_none() && by.abs() == 1 { 0 } else { by };
        self.row = self.row.saturating_add_signed(by).min(names.len().saturating_sub(1));
        self.name = names.get(self.row).cloned();
        self.begun |= self.name.is_some();
    }
}
