-- Recipients of further channels: phone numbers, devices.

-- Why this recipient cannot be written to over this channel, or null. Shape only; the model judges the rest.
CREATE OR REPLACE FUNCTION backline.recipient_error(channel text, recipient text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN recipient IS NULL OR recipient = '' THEN 'recipient: is missing'
        WHEN channel = 'sms' THEN CASE
            WHEN recipient !~ '^\+[1-9][0-9]{6,14}$'
            THEN 'recipient: not a phone number in E.164; use +4915112345678, without blanks'
        END
        WHEN channel = 'push' THEN CASE
            WHEN recipient ~ '[^!-~]' OR char_length(recipient) NOT BETWEEN 6 AND 4096 OR recipient = 'user:'
            THEN 'recipient: not a device''s token; use the token that the device got, or user:17 for all devices of a person'
        END
        WHEN channel <> 'email' THEN NULL
        WHEN char_length(recipient) > 400 THEN 'recipient: longer than 400 characters'
        WHEN recipient !~ '^[^\s@<>(),;:\\"[\]]+@[^\s@<>(),;:\\"[\]]+$'
         AND recipient !~ '^[^<>[:cntrl:]]+ <[^\s@<>(),;:\\"[\]]+@[^\s@<>(),;:\\"[\]]+>$'
        THEN 'recipient: not an email address; use ann@example.com or Ann <ann@example.com>'
    END
$$;
