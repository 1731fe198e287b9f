package driver_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport/driver"
)

func parse(string, string, driver.Options) (driver.Broker, error) { return driver.Broker{}, nil }

func TestADriverIsFoundByItsScheme(t *testing.T) {
	_, err := driver.Find("carrier+pigeon://loft")
	require.ErrorContains(t, err, "unknown scheme")
	driver.Register("carrier+pigeon", driver.Driver{Form: "carrier+pigeon://LOFT", Parse: parse})
	found, err := driver.Find("carrier+pigeon://user:s3cret@loft")
	require.NoError(t, err)
	require.Equal(t, "carrier+pigeon://LOFT", found.Form)
	_, err = driver.Find("smoke://user:s3cret@hill")
	require.ErrorContains(t, err, "carrier+pigeon://LOFT", "which there are")
	require.NotContains(t, err.Error(), "s3cret")
}

// Who has the URL of a broker that the program was built without learns how to build it with that.
func TestABrokerThatIsNotLinkedNamesItsImport(t *testing.T) {
	_, err := driver.Find("nats://user:s3cret@host:4222")
	require.ErrorContains(t, err, `import _ "github.com/cqrsync/cqrsync/transport/nats"`)
	require.NotContains(t, err.Error(), "s3cret")
}

func TestASchemeHasOneWholeDriver(t *testing.T) {
	require.Panics(t, func() { driver.Register("half", driver.Driver{Form: "half://"}) })
	require.Panics(t, func() { driver.Register("", driver.Driver{Form: "x", Parse: parse}) })
	driver.Register("once", driver.Driver{Form: "once://", Parse: parse})
	require.PanicsWithValue(t, `transport/driver: the scheme "once" has two drivers`,
		func() { driver.Register("once", driver.Driver{Form: "once://", Parse: parse}) })
}
