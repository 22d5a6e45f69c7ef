//! [`PathMap`]: a map from rpc paths. Each call looks up several, and all paths are known at start, so it is a sorted list.
//! It is sorted by length first: most comparisons then compare two numbers.

#[derive(Debug)]
pub(super) struct PathMap<T>(Vec<(String, T)>);

impl<T> PathMap<T> {
    pub(super) fn get(&self, path: &str) -> Option<&T> {
        let by_length = |known: &String| (known.len(), known.as_str()).cmp(&(path.len(), path));
        self.0.binary_search_by(|(known, _)| by_length(known)).ok().map(|place| &self.0[place].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(String, T)> {
        self.0.iter()
    }
}

impl<T> FromIterator<(String, T)> for PathMap<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(values: I) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        PathMap(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_own_value() {
        let paths = ["/a/B", "/a/C", "/a/Longer", "", "/b/B", "/a/Ca"];
        let map: PathMap<usize> = paths.iter().enumerate().map(|(place, path)| ((*path).to_owned(), place)).collect();
        for (place, path) in paths.iter().enumerate() {
            assert_eq!(map.get(path), Some(&place), "{path}");
        }
        for unknown in ["/a/D", "/a/Cb", "/", "/a/Longest!"] {
            assert_eq!(map.get(unknown), None, "{unknown}");
        }
        assert_eq!(map.iter().count(), paths.len());
    }
}
