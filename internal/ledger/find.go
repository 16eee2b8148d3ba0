package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/backstay-dev/backstay"
)

// mostNamed is how many deployments an ambiguous reference lists.
const mostNamed = 10

// Find reads the deployment that a person means: by its UUID, a part of at
// least four characters that it alone starts or ends with, or its name
// ("shop#3"). The error wraps ErrNotFound where there is none, and lists the
// candidates where there are several.
func (s *Store) Find(ctx context.Context, ref string) (Deployment, error) {
	ref = strings.TrimSpace(ref)
	if release, number, ok := strings.Cut(ref, "#"); ok {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return Deployment{}, s.reading("find deployment", ref, sql.ErrNoRows)
		}
		return s.only(ctx, ref, "WHERE d.release = $1 AND d.number = $2", release, n)
	}
	part := strings.ToLower(ref)
	if id, err := uuid.Parse(part); err == nil {
		return s.only(ctx, ref, "WHERE d.id = $1", id.String())
	}
	if strings.Trim(part, "0123456789abcdef-") != "" {
		return Deployment{}, s.reading("find deployment", ref, sql.ErrNoRows)
	}
	if len(part) < 4 {
		return Deployment{}, &backstay.Error{
			Class: backstay.NotFound, Op: "find deployment", Subject: ref, Err: ErrNotFound,
			Hint: "give at least four characters of the ID, or its name such as shop#3",
		}
	}
	// The part holds no character that LIKE gives a meaning.
	return s.only(ctx, ref, "WHERE d.id LIKE $1 OR d.id LIKE $2", part+"%", "%"+part)
}

func (s *Store) only(ctx context.Context, ref, where string, args ...any) (Deployment, error) {
	found, err := s.find(ctx, where+" ORDER BY d.born DESC LIMIT "+strconv.Itoa(mostNamed+1), args...)
	switch {
	case err != nil:
		return Deployment{}, s.reading("find deployment", ref, err)
	case len(found) == 0:
		return Deployment{}, &backstay.Error{
			Class: backstay.NotFound, Op: "find deployment", Subject: ref, Err: ErrNotFound,
			Hint: "`backstay history` lists the deployments",
		}
	case len(found) == 1:
		return found[0], nil
	}
	names := make([]string, 0, mostNamed)
	for _, d := range found[:min(len(found), mostNamed)] {
		names = append(names, d.ID+" ("+d.Name+")")
	}
	more := ""
	if len(found) > mostNamed {
		more = " and more"
	}
	return Deployment{}, &backstay.Error{
		Class: backstay.Conflict, Op: "find deployment", Subject: ref,
		Err:  fmt.Errorf("it can be %s%s", strings.Join(names, ", "), more),
		Hint: "give more of the ID, or its name such as " + found[0].Name,
	}
}
