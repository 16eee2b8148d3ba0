//go:build !linux

package ledger

import "context"

// endStopped ends nothing where the kernel cannot name a process for sure.
func (s *Store) endStopped(context.Context, bool) int { return 0 }
