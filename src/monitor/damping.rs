//! From results to verdicts: how many results in a row, or of the last ones, it takes. Pure.

use crate::check::Damping;

/// The results of one check, as far as they still matter.
#[derive(Debug)]
pub(super) struct Judge {
    damping: Damping,
    /// The last results, the newest in the lowest bit; 1 is bad.
    bad: u64,
    /// What was last made of them; `None`: there is none yet.
    up: Option<bool>,
}

impl Judge {
    pub(super) fn new(damping: Damping) -> Judge {
        Judge {
            damping,
            bad: 0,
            up: None,
        }
    }

    /// Takes a result and gives the verdict. The first result is one: until then nothing is known, and what
    /// the server is taken for meanwhile is not for us to say.
    pub(super) fn judge(&mut self, good: bool) -> bool {
        self.bad = self.bad << 1 | u64::from(!good);
        let up = match (self.up, self.damping) {
            (None, _) => good,
            (Some(true), Damping::InARow { fall, .. }) => self.bad.trailing_ones() < fall,
            (Some(false), Damping::InARow { rise, .. }) => self.bad.trailing_zeros() >= rise,
            (Some(_), Damping::Window { bad, of }) => self.bad_of(of) < bad,
        };
        self.up = Some(up);
        up
    }

    /// Whether the last result is not what the verdict is: more must come to see who is right.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.up.is_some_and(|up| up == (self.bad & 1 == 1))
    }

    fn bad_of(&self, of: u32) -> u32 {
        let mask = u64::MAX.checked_shr(64_u32.saturating_sub(of));
        (self.bad & mask.unwrap_or(0)).count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `results` and the verdicts that they give: `+` is good and up, `-` bad and down.
    fn check(damping: Damping, results: &str, verdicts: &str) {
        let mut judge = Judge::new(damping);
        let given: String = results
            .chars()
            .map(|result| if judge.judge(result == '+') { '+' } else { '-' })
            .collect();
        assert_eq!(given, verdicts, "{damping:?} {results}");
    }

    #[test]
    fn in_a_row() {
        check(Damping::NONE, "+-+--++", "+-+--++");
        let three_two = Damping::InARow { rise: 3, fall: 2 };
        check(three_two, "+-+--+-++++--", "++++-----+++-");
        check(three_two, "-++-+++", "------+");
        // As many as there can be.
        let most = Damping::InARow { rise: 64, fall: 64 };
        check(most, &"-".repeat(64), &"-".repeat(64));
        let (up, down) = ("+".repeat(63), "-".repeat(64));
        check(most, &format!("-{up}+"), &format!("{down}+"));
        let (up, down) = ("+".repeat(64), "-".repeat(63));
        check(most, &format!("+{down}-"), &format!("{up}-"));
    }

    #[test]
    fn some_of_the_last() {
        let two_of_three = Damping::Window { bad: 2, of: 3 };
        check(two_of_three, "+-+-++-+--", "+++-++++--");
        // What comes first counts at once, and no more than any other after that.
        check(two_of_three, "-++", "-++");
        check(Damping::Window { bad: 1, of: 64 }, "-+", "--");
    }

    #[test]
    fn doubt_is_where_the_last_result_is_not_believed() {
        let mut judge = Judge::new(Damping::InARow { rise: 2, fall: 2 });
        let doubts: Vec<bool> = [true, false, false, true, true]
            .map(|good| {
                judge.judge(good);
                judge.is_in_doubt()
            })
            .into();
        assert_eq!(doubts, [false, true, false, true, false]);
    }
}
