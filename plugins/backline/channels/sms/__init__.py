"""The SMS channel: texts counted in segments, handed to a gateway that speaks Twilio's message API."""
