// Package analysis decides whether a new version is worse than the running
// one, or safe, from the outcomes of requests that both serve at the same
// time. It owns blocks of counts, the bets on them, and the verdict. It is
// pure: no I/O, no clock, no goroutine, no randomness; times and counts enter
// as values, and the same values give the same bits (on one architecture: others
// may round a product and a sum at once).
//
// # The guarantee
//
// If the canary is no worse than the baseline, the verdict is ever [backstay.Fail]
// in at most a fraction Alpha of rollouts (1 of 1000 by default), however often
// one looks, however long the rollout lasts, however the traffic is shifted, and
// whatever happens to both versions at once. No worse means: at any moment, a
// request that is sent to the canary is not more likely to fail, or to be
// slower, than the same request sent to the baseline.
//
// If the canary is worse by at least a margin, the verdict is ever
// [backstay.Pass] for that margin in at most a fraction Beta of rollouts. If
// neither can be shown, the verdict is [backstay.Undecided], its zero value,
// and the result says what can be said.
//
// # Why it holds
//
// Given how many requests each arm had in a block, and how many of all were
// bad, chance alone deals the bad ones out if the canary is no different; so a
// bet on the canary's part has a fair price that is known exactly, the
// normaliser of Fisher's noncentral hypergeometric distribution. A better
// canary can only lose. Capital that is staked on fair or losing bets is a
// nonnegative supermartingale: it ever grows 1/Alpha-fold with probability
// Alpha at most (Ville 1939). That covers bets on several effects, several
// metrics and all traffic steps, whose capital is added up; cash that is kept
// in reserve; and capital that the burst guard throws away. See Turner, Ly,
// Grünwald (2024) and Turner & Grünwald (2023) for two arms and strata,
// Lindon, Sanden, Shirikian (2022) for canaries, Howard, Ramdas, McAuliffe,
// Sekhon (2021) and Waudby-Smith & Ramdas (2024) for intervals at every look,
// Grünwald, de Heide, Koolen (2024) for the promotion test.
//
// # What it assumes
//
// Within one block of one stratum, a request's chance to be bad depends on its
// arm through the release only. Nothing is assumed about the baseline's rate,
// its drift, outages of both, arrivals, or the share, which may react to the
// data. It does not hold for differences that come with the new instances
// rather than the new code: cold caches, a bad node, unequal load, users pinned
// to one version (take the user as the unit), requests that only one arm gets.
// The burst guard and leaving out the warm-up make those rarer; the bound does
// not cover them. Promotion assumes besides that the outcomes in a block are
// independent given the arm's rate.
//
// Evidence is odds, not a probability that the release is good.
package analysis
