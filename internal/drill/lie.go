package drill

import (
	"encoding/json"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
)

// lie is how a modelled step of the self-check behaves otherwise than it
// declares. Models of users' plans tell none.
type lie string

// The lies.
const (
	lieNoUndo  lie = "no-op undo"
	lieWrong   lie = "undo of the wrong key"
	lieRepeats lie = "undo that is not idempotent"
	lieHidden  lie = "hidden write outside its keys"
	lieNoProbe lie = "missing probe"
)

// neighbour is a key that no step of the self-check has.
const neighbour = backstay.Key("setting:neighbour")

// bent are the writes of an act as a lying step does them.
func (w *world) bent(verb fault.Verb, step string, todo []change) []change {
	value := func(text string) json.RawMessage { return backstay.Canonical(map[string]string{"left by": text}) }
	switch w.m.lies[step] {
	case lieNoUndo:
		if verb == fault.Undo {
			return nil
		}
	case lieWrong:
		if verb == fault.Undo {
			return []change{{at: place(neighbour), key: neighbour, to: value("the undo of " + step)}}
		}
	case lieHidden:
		if verb == fault.Do {
			return append([]change{{at: place(neighbour), key: neighbour, to: value(step)}}, todo...)
		}
	case lieRepeats:
		if verb == fault.Undo {
			w.undone[step]++
			if w.undone[step] > 1 { // takes back more than was done
				return []change{{at: todo[0].at, key: todo[0].key, to: value("the second undo of " + step)}}
			}
		}
	case lieNoProbe:
	}
	return todo
}
