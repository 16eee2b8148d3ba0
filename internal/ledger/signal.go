package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/backstay-dev/backstay"
)

// Signal leaves a signal for whoever drives the deployment, and makes the
// deployment due for an agent. Sending the same ID again changes nothing.
func (s *Store) Signal(ctx context.Context, deployment string, sig Signal) error {
	if sig.ID == "" || sig.Kind == "" {
		return errors.New("send signal: it has no ID or no kind")
	}
	if sig.At.IsZero() {
		sig.At = s.opt.Clock.Wall()
	}
	sig.At = sig.At.UTC().Round(0)
	body := string(backstay.Canonical(sig))
	err := s.write(ctx, func(b *batch) error {
		var known int64
		if err := b.QueryRowContext(b.ctx, "SELECT COUNT(*) FROM deployment WHERE id = $1", deployment).Scan(&known); err != nil {
			return err
		}
		if known == 0 {
			return refusal{fmt.Errorf("deployment %s: %w", deployment, ErrNotFound)}
		}
		const insert = "INSERT INTO signal (deployment_id, id, arrived, body, consumed_n) VALUES ($1, $2, $3, $4, 0) ON CONFLICT (deployment_id, id) DO NOTHING"
		n, err := exec(b.ctx, b, insert, deployment, sig.ID, b.version*mostGrouped+int64(b.signals), body)
		if err != nil || n == 0 {
			return err
		}
		b.signals++
		_, err = b.ExecContext(b.ctx, "UPDATE deployment SET waiting = waiting + 1, wake_at = 0 WHERE id = $1", deployment)
		return err
	})
	if err != nil {
		return fmt.Errorf("send %s: %w", sig.Kind, err)
	}
	return nil
}

// Signals are those that no entry has answered yet, oldest first.
func (s *Store) Signals(ctx context.Context, deployment string) ([]Signal, error) {
	signals, err := s.signals(ctx, deployment)
	return signals, s.reading("read signals of", deployment, err)
}

func (s *Store) signals(ctx context.Context, deployment string) ([]Signal, error) {
	const query = "SELECT body FROM signal WHERE deployment_id = $1 AND consumed_n = 0 ORDER BY arrived"
	rows, err := s.backend.Read.QueryContext(ctx, query, deployment)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Signal
	for rows.Next() {
		var body string
		var sig Signal
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &sig); err != nil {
			return nil, errors.Join(ErrDamaged, err)
		}
		all = append(all, sig)
	}
	return all, rows.Err()
}

// consume marks signals as answered and returns how many of them waited. What they
// said is in the entries from here on, without secrets.
func (s *Store) consume(b *batch, deployment string, ids []string, n int64) (int64, error) {
	var consumed int64
	for _, id := range ids {
		const mark = "UPDATE signal SET consumed_n = $1, body = '' WHERE deployment_id = $2 AND id = $3 AND consumed_n = 0"
		changed, err := exec(b.ctx, b, mark, n, deployment, id)
		if err != nil {
			return 0, err
		}
		consumed += changed
	}
	if consumed == 0 {
		return 0, nil
	}
	_, err := b.ExecContext(b.ctx, "UPDATE deployment SET waiting = waiting - $1 WHERE id = $2", consumed, deployment)
	return consumed, err
}
