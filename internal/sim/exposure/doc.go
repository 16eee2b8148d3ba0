// Package exposure holds the tests of whole exposures: a deployment that moves a
// feature flag through its shares is crashed, or the flag is killed by a person,
// at every single point that the engine passes.
package exposure
