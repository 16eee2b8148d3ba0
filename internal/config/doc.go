// Package config finds what one host and one user bring to Backstay: where its
// state is, who is acting, the values behind secret references, and the key
// that signs audit checkpoints.
//
// It owns State (the ledger's place, without its password in any text form),
// Accounts (who a uid is and which groups it is in), Secrets and Value (a text
// that redacts itself), and Key. It promises: identity comes from the kernel's
// uid and the host's account files, never from a flag or the environment; an
// error names a secret's reference and never its value; a key file that others
// can read is refused; of two processes that create the key at once, both end
// with the same one.
//
// It reads no spec and opens no ledger.
package config
