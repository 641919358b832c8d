// Package strict reads YAML that people write by hand, and tells them all that is wrong with it at once. The configuration
// file (provider/config) and the ConfigMap of remembered addresses (provider) are read with it.
//
// It owns the walk over the YAML tree and the wording of what is wrong with a file's form. It must not know what the file
// is about: its caller says that with a struct, whose tags name the keys, and adds what is wrong with the content to the
// same list.
//
// What holds:
//   - All faults are told in one go-multierror list; each begins with the path of its field, and says what is allowed.
//   - An unknown key, a key written twice, an anchor or a second document is a fault. A misspelt key that is ignored is a
//     setting that silently is not there.
//   - What could not be read is told once. Nobody can say more of it, so that Faults.Add drops what else is said of that
//     place or of what is inside it: else a list written as a text would be "empty" too.
//   - What could be read is in the struct, whatever else is wrong.
//   - A path is unambiguous: keys of a map stand in brackets (nodes.addresses[worker.example]), for they may have dots.
//
// Rejected: sigs.k8s.io/yaml's UnmarshalStrict, which stops at the first unknown key, names neither path nor line, and
// speaks of Go's types; decoding through JSON, which loses line numbers and the second of two equal keys.
package strict
