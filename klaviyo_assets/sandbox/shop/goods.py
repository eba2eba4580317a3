"""What the shop sells and to whom: names, products, places, with the odd texts that real ones have.

Word lists only.
"""

FIRST_NAMES = (
    "Anna", "Liam", "Noor", "Mateo", "Zoë", "Yuki", "Olu", "Søren", "Chloé", "Ivan", "Priya",
    "Jack", "Emilia", "Łukasz", "Fatima", "Tom", "Ingrid", "José", "Mei", "Rosa",
)  # fmt: skip
LAST_NAMES = (
    "Nguyen", "O'Brien", "Müller", "García", "Smith", "Kowalski", "Okafor", "Jensen", "Tanaka",
    "de la Cruz", "Brown", "Rossi", "Haddad", "Kim", "D’Angelo", "Ivanova",
)  # fmt: skip
PLACES = (
    ("Boston", "Massachusetts", "United States", "02108", 42.3584, -71.0598, "America/New_York"),
    ("Austin", "Texas", "United States", "78701", 30.2711, -97.7437, "America/Chicago"),
    ("London", "England", "United Kingdom", "SW1A 1AA", 51.5014, -0.1419, "Europe/London"),
    ("Paris", "Île-de-France", "France", "75001", "48.8566", "2.3522", "Europe/Paris"),
    ("München", "Bayern", "Germany", "80331", 48.1374, 11.5755, "Europe/Berlin"),
    ("Sydney", "New South Wales", "Australia", "2000", -33.8688, 151.2093, "Australia/Sydney"),
    ("東京", None, "Japan", "100-0001", 35.6895, 139.6917, "Asia/Tokyo"),
    ("São Paulo", "SP", "Brazil", "01000-000", "-23.5505", "-46.6333", "America/Sao_Paulo"),
)
PRODUCTS = (
    ("Kettle No. 4", "KET-004", 49.0, "Kitchen"),
    ('Walnut Board 12"', "BRD/012", 34.5, "Kitchen"),
    ("Wool Socks, 2 pairs", "SOC-2", 18.0, "Clothing"),
    ("Rain Jacket “Storm”", "JCK-STORM", 129.0, "Clothing"),
    ("Desk Lamp 💡", "LMP-1", 79.95, "Home"),
    ("Coffee Beans 1 kg", "COF-1000", 21.9, "Food"),
    ("Olive Oil 0,5 l", "OIL-05", 14.25, "Food"),
    ("Linen Sheet", "SHT-LIN-<180>", 99.0, "Home"),
    ("Notebook A5", "NTB-A5", 7.5, "Office"),
    ("Gift Card", "$custom:::$default:::GC 1/2", 50.0, "Gifts"),
)  # fmt: skip
OCCASIONS = (
    "Spring Sale", "New Arrivals", "Weekly Digest", "Black Friday", "VIP Early Access",
    "Back in Stock", "Holiday Gift Guide", "Last Chance ⏰", "Summer Edit", "Loyalty News",
    "Flash Sale 24h", "Restock",
)  # fmt: skip
STREETS = ("Harbour Street", "Main St", "Rue des Lilas", "Lindenweg", "High Road", "Elm Ave")
