//! A random position in a shard, from which an allocator without a cursor starts to read, so that several of them do
//! not start with the same sandboxes.

use domain::SandboxName;
use ports::random::Random;

/// Random characters after the first one that differs: with ten digits, ten thousand positions.
const RANDOM_CHARS: usize = 4;
/// Attempts to find a position inside; with names of equal length, one is nearly always enough.
const DRAWS_MAX: usize = 8;
/// The characters of random positions, in byte order.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A name between `first` and `last`, where a listing can start; `first` itself if there is no other.
///
/// Keeps the common prefix and continues with characters of the kinds that follow in both names (digits, upper case,
/// lower case). For names that end in numbers of equal length, positions are about equally likely; for others they are
/// merely different, which is sufficient.
pub(super) fn between(random: &dyn Random, first: &SandboxName, last: &SandboxName) -> SandboxName {
    let (low, high) = (first.as_str(), last.as_str());
    let shared: String =
        low.chars().zip(high.chars()).take_while(|(one, other)| one == other).map(|(one, _)| one).collect();
    let rest = |name: &'_ str| name.get(shared.len()..).unwrap_or_default().to_owned();
    let (low_rest, high_rest) = (rest(low), rest(high));
    let seen = format!("{low_rest}{high_rest}");
    let alphabet: Vec<char> = ALPHABET
        .iter()
        .map(|byte| char::from(*byte))
        .filter(|char| seen.chars().any(|other| alike(*char, other)))
        .collect();
    // The first one decides whether the position is inside at all.
    let first_chars: Vec<char> = {
        let (least, greatest) = (low_rest.chars().next().unwrap_or(char::MIN), high_rest.chars().next());
        alphabet.iter().copied().filter(|char| least <= *char && Some(*char) <= greatest).collect()
    };
    for _ in 0..DRAWS_MAX {
        let mut name = shared.clone();
        name.extend(first_chars.get(random.below(first_chars.len())));
        for _ in 0..RANDOM_CHARS {
            name.extend(alphabet.get(random.below(alphabet.len())));
        }
        match SandboxName::parse(&name) {
            Ok(name) if (low..=high).contains(&name.as_str()) => return name,
            _ => {}
        }
    }
    first.clone()
}

fn alike(one: char, other: char) -> bool {
    (one.is_ascii_digit() && other.is_ascii_digit())
        || (one.is_ascii_uppercase() && other.is_ascii_uppercase())
        || (one.is_ascii_lowercase() && other.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::random::Rng;

    fn name(text: &str) -> SandboxName {
        SandboxName::parse(text).unwrap()
    }

    #[test]
    fn starting_points_cover_numbered_names_evenly() {
        let rng = Rng::seeded(7);
        let mut tenths = [0_u32; 10];
        for _ in 0..1_000 {
            let place = between(&rng, &name("lab-00000"), &name("lab-99999"));
            let number: usize = place.as_str().strip_prefix("lab-").unwrap().parse().unwrap();
            tenths[number / 10_000] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn first_name_is_not_favoured() {
        // If the first digit could be any, nine of ten would be outside here.
        let rng = Rng::seeded(7);
        let (first, last) = (name("lab-00007"), name("lab-09998"));
        let places: Vec<_> = (0..1_000).map(|_| between(&rng, &first, &last)).collect();
        assert!(places.iter().filter(|place| **place == first).count() <= 5);
        let upper_half = places.iter().filter(|place| place.as_str() > "lab-05").count();
        assert!((400..=600).contains(&upper_half), "{upper_half} of 1000");
        let narrow =
            (0..100).filter(|_| between(&rng, &name("lab-1997"), &name("lab-3002")) > name("lab-2")).count();
        assert!(narrow > 50, "{narrow} of 100");
    }

    #[test]
    fn starting_point_stays_in_range() {
        let rng = Rng::seeded(7);
        for (first, last) in [
            ("a", "a"),
            ("a", "ab"),
            ("lab 1", "lab 1000"),
            ("Ärger", "Übung"),
            ("x-7f", "x-a0"),
            ("A.1", "z.9"),
        ] {
            for _ in 0..200 {
                let place = between(&rng, &name(first), &name(last));
                assert!((first..=last).contains(&place.as_str()), "{place} is not from {first} to {last}");
            }
        }
    }

    #[test]
    fn cold_processes_start_at_different_points() {
        let (one, other) = (Rng::seeded(1), Rng::seeded(2));
        let (first, last) = (name("exam-0001"), name("exam-9000"));
        let apart =
            (0..100).filter(|_| between(&one, &first, &last) != between(&other, &first, &last)).count();
        assert!(apart > 90, "{apart} of 100");
    }
}
