"""Do the assertions of the chapters hold on other machines and for other seeds? `make robust`."""
