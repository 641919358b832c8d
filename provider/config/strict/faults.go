package strict

import (
	"fmt"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Faults collects what is wrong with a file, in the order in which it is found. The zero value is ready.
type Faults struct {
	list *multierror.Error
	// unread are the paths of values that could not be read.
	unread map[string]bool
}

// Add notes one fault: the path of the field, what is wrong, and what is allowed. It is dropped when the value at path
// could not be read, which has been told.
func (f *Faults) Add(path, format string, args ...any) {
	if !f.Unread(path) {
		f.note(path, fmt.Sprintf(format, args...))
	}
}

func (f *Faults) note(path, text string) {
	f.list = multierror.Append(f.list, fmt.Errorf("%s: %s", path, text))
}

// Unread says whether the value at path, or one that it is a part of, could not be read. Who judges one field by another
// asks this of the other.
func (f *Faults) Unread(path string) bool {
	for unread := range f.unread {
		rest, inside := strings.CutPrefix(path, unread)
		if inside && (rest == "" || unread == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// Err gives all faults as a go-multierror list; nil when there is none.
func (f *Faults) Err() error { return f.list.ErrorOrNil() }

func (f *Faults) unreadable(path string) {
	if f.unread == nil {
		f.unread = map[string]bool{}
	}
	f.unread[path] = true
}

// Field gives the path of a field of what path names.
func Field(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Index gives the path of the i-th element of the list at path.
func Index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// Key gives the path of the value of key in the map at path.
func Key(path, key string) string { return path + "[" + key + "]" }
